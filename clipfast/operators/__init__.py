"""The losses as torch operators: schemas, shapes for tracing, autograd, and the single tile of a small batch."""
