"""Triton kernels, one per file: each docstring states the torch expression that its kernel replaces.

A file holds a kernel and its launcher, which takes the records of ``launch_records.py``. ``tile_functions.py`` and
``tile_launch.py`` are what the tile kernels share, ``row_launch.py`` what the row-wise ones do; ``block_sizes.py`` has the
blocks of each architecture, and ``tune.py``, above the kernels, measures which of them is fastest. Imported as
``clipfast.kernels``, and only where a GPU backend is asked for: ``import clipfast`` does not load Triton.
"""
