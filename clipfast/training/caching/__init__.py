"""Gradient caching: forward and backward of a large batch with the memory of a small one."""
