"""The dtypes of features, and the one that is computed with."""

from __future__ import annotations

import torch

HALF = (torch.bfloat16, torch.float16)
FLOATS = (torch.float32, torch.float64, *HALF)


def name_of(dtype: torch.dtype) -> str:
    """As users write it: "float32"."""
    return str(dtype).removeprefix("torch.")


def compute_dtype(dtype: torch.dtype) -> torch.dtype:
    """The dtype of logits, sums and accumulators: float32 or wider."""
    return torch.float64 if dtype == torch.float64 else torch.float32
