"""Positional embeddings for another resolution or length."""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import Tensor


def resize_image_positions(table: Tensor, tokens: int, first: int) -> Tensor | None:
    """(N, width) -> (tokens, width) for square grids of patches, after ``first`` tokens that have no place in the grid.

    Bicubic with antialiasing, as OpenCLIP does; the first tokens are kept. None if a number of patches is no square.
    """
    old, new = math.isqrt(len(table) - first), math.isqrt(tokens - first)
    if old**2 + first != len(table) or new**2 + first != tokens:
        return None
    grid = table[first:].float().T.reshape(1, -1, old, old)
    resized = F.interpolate(grid, (new, new), mode="bicubic", antialias=True, align_corners=False)
    return torch.cat([table[:first], resized[0].flatten(1).T.to(table.dtype)])


def resize_text_positions(table: Tensor, tokens: int) -> Tensor:
    """(N, width) -> (tokens, width), linearly."""
    resized = F.interpolate(table.float().T[None], tokens, mode="linear", align_corners=False)
    return resized[0].T.to(table.dtype)
