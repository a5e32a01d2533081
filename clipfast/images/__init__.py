"""Pictures: reading and preprocessing."""
