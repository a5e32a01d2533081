"""Half-precision features widened to the dtype of the arithmetic, for the backends whose products are float32."""

from __future__ import annotations

import threading

import torch
from torch import Tensor

from clipfast.common.dtypes import compute_dtype
from clipfast.common.limits import limits

_reused = threading.local()


def widened(rows: Tensor, cols: Tensor | None) -> tuple[Tensor, Tensor | None]:
    """Both sides in float32 or wider, valid until the thread's next call; what is so wide already comes back as it is."""
    wanted = [rows] if cols is None else [rows, cols]
    copies = [_place(place, x) for place, x in zip(_places(wanted), wanted, strict=True)]
    return copies[0], None if cols is None else copies[1]


def _places(sides: list[Tensor]) -> list[Tensor | None]:
    sizes = [x.numel() for x in sides]
    half = all(x.is_cpu and x.dtype.itemsize == 2 for x in sides)
    if not half or sum(sizes) * torch.float32.itemsize > limits().reused_bytes:
        return [None] * len(sides)
    if getattr(_reused, "memory", None) is None or _reused.memory.numel() < sum(sizes):
        _reused.memory = torch.empty(sum(sizes))
    return list(_reused.memory[: sum(sizes)].split(sizes))


def _place(place: Tensor | None, x: Tensor) -> Tensor:
    return x.to(compute_dtype(x.dtype)) if place is None else place.view(x.shape).copy_(x)
