"""Pictures: finding, reading and preprocessing them."""
