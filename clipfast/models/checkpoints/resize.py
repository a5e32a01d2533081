"""Positional embeddings for another resolution or length."""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import Tensor


def resize_image_positions(table: Tensor, tokens: int, prefix: int) -> Tensor | None:
    """(N, width) -> (tokens, width) for square grids of patches, after ``prefix`` tokens that have no place in the grid.

    Bicubic with antialiasing, as in OpenCLIP; the prefix is kept. None if either number of patches is not a square.
    """
    old, new = math.isqrt(len(table) - prefix), math.isqrt(tokens - prefix)
    if old**2 + prefix != len(table) or new**2 + prefix != tokens:
        return None
    grid = table[prefix:].float().T.reshape(1, -1, old, old)
    resized = F.interpolate(grid, (new, new), mode="bicubic", antialias=True, align_corners=False)
    return torch.cat([table[:prefix], resized[0].flatten(1).T.to(table.dtype)])


def resize_text_positions(table: Tensor, tokens: int) -> Tensor:
    """(N, width) -> (tokens, width), by linear interpolation."""
    resized = F.interpolate(table.float().T[None], tokens, mode="linear", align_corners=False)
    return resized[0].T.to(table.dtype)
