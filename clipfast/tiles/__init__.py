"""Implementations of the tile operations, one backend a file."""
