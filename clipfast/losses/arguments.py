"""Arguments of the public losses: what is accepted, and errors that say what came instead."""

from __future__ import annotations

import torch
from torch import Tensor

from clipfast.common.dtypes import FLOATS


def features(first: Tensor, second: Tensor, names: tuple[str, str]) -> tuple[Tensor, Tensor]:
    """Both sides as matrices of one width, dtype and device; under autocast the narrower dtype is promoted."""
    for x, name in zip((first, second), names, strict=True):
        if not isinstance(x, Tensor):
            raise TypeError(f"{name} must be a tensor of features (rows, width); got {type(x).__name__}")
        if x.dtype not in FLOATS:
            raise TypeError(f"{name} must be one of {', '.join(str(d) for d in FLOATS)}; got {x.dtype}")
        if x.dim() != 2:
            raise ValueError(f"{name} must have shape (rows, width); got {tuple(x.shape)}")
        if x.shape[0] == 0 or x.shape[1] == 0:
            raise ValueError(f"{name} must have a row and a column at least; got shape {tuple(x.shape)}")
    if first.shape[1] != second.shape[1]:
        raise ValueError(f"{names[1]} must be as wide as {names[0]}, {first.shape[1]}; got width {second.shape[1]}")
    if first.device != second.device:
        raise ValueError(
            f"{names[1]} must be on {first.device}, as {names[0]} is; got {second.device}; move them to one device"
        )
    if first.dtype != second.dtype:
        if not torch.is_autocast_enabled(first.device.type):
            raise TypeError(
                f"{names[1]} must be {first.dtype}, as {names[0]} is; got {second.dtype}; cast one of them (outside autocast "
                "nothing is promoted silently)"
            )
        wide = torch.promote_types(first.dtype, second.dtype)
        return first.to(wide), second.to(wide)
    return first, second


def same_number(first: Tensor, second: Tensor, names: tuple[str, str], advice: str) -> None:
    if first.shape[0] != second.shape[0]:
        raise ValueError(f"{names[1]} must have {first.shape[0]} rows, as {names[0]} has; got {second.shape[0]}; {advice}")


def number(value: Tensor | float, like: Tensor, name: str) -> Tensor:
    """A scalar as a 0-d tensor on the features' device, without losing digits or the graph."""
    if isinstance(value, Tensor):
        if value.numel() != 1 or not value.dtype.is_floating_point:
            raise ValueError(
                f"{name} must be a float or a floating tensor with one element; got {value.dtype} {tuple(value.shape)}"
            )
        return value.reshape(()) if value.dim() else value  # a view would cost a small batch a node of the graph
    if isinstance(value, bool) or not isinstance(value, (int, float, torch.SymFloat, torch.SymInt)):
        raise TypeError(f"{name} must be a float or a floating tensor with one element; got {type(value).__name__}")
    return torch.full((), value, dtype=torch.float64, device=like.device)


def targets(value: Tensor | None, rows: Tensor) -> None:
    """Shape and dtype only: the values are checked where they are read."""
    if value is None:
        return
    if not isinstance(value, Tensor) or value.dtype != torch.int64:
        got = value.dtype if isinstance(value, Tensor) else type(value).__name__
        raise TypeError(f"targets must be an int64 tensor with each row's column; got {got}")
    if value.shape != (rows.shape[0],):
        raise ValueError(f"targets must have shape ({rows.shape[0]},), one column for each row; got {tuple(value.shape)}")
    if value.device != rows.device:
        raise ValueError(f"targets must be on {rows.device}, as the features are; got {value.device}; move them to one device")
