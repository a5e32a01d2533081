"""Triton kernels, one per file; each docstring states the torch expression that its kernel replaces.

``block.py`` holds what the tile kernels share, ``config.py`` the block sizes per architecture. Imported as
``clipfast.kernels``, and only where a GPU backend is asked for: ``import clipfast`` does not load Triton.
"""
