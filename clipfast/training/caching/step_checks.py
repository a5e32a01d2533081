"""Checks of the arguments of ``CachedStep``; the errors say what is accepted and what came instead."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn


def towers(value: Any) -> list[Callable[[Any], Any]]:
    several = isinstance(value, nn.ModuleList) or (isinstance(value, Sequence) and not isinstance(value, str))
    if not several or not len(value):
        raise TypeError(f"towers must be a list of one or more modules or functions; got {_kind(value)}")
    for i, tower in enumerate(value):
        if not callable(tower):
            raise TypeError(f"tower {i} must be a module or a function of its input; got {type(tower).__name__}")
    return list(value)


def chunk_sizes(value: int | Sequence[int], count: int) -> list[int]:
    sizes: list[Any] = list(value) if isinstance(value, (list, tuple)) else [value] * count
    for size in sizes:
        if isinstance(size, bool) or not isinstance(size, int):
            raise TypeError(f"chunk_size must be an integer, or a list with one for each tower; got {value!r}")
        if size < 1:
            raise ValueError(f"chunk_size must be at least 1 row; got {size}")
    if len(sizes) != count:
        raise ValueError(f"chunk_size must be one number, or one for each of the {count} towers; got {len(sizes)} numbers")
    return sizes


def losses(value: Any) -> dict[str, Callable[..., Tensor]]:
    named = dict(value) if isinstance(value, Mapping) else {"loss": value}
    if not named:
        raise ValueError("loss must be a function of the towers' outputs, or a dict of one or more; got an empty dict")
    for name, loss in named.items():
        if not callable(loss):
            raise TypeError(
                f"loss {name!r} must be a function of the towers' outputs that returns a scalar; got {type(loss).__name__}"
            )
    return named


def scaler(value: Any) -> Any:
    if value is not None and not callable(getattr(value, "scale", None)):
        raise TypeError(f"scaler must be a torch.amp.GradScaler or None; got {type(value).__name__}")
    return value


def modules(value: Iterable[nn.Module]) -> list[nn.Module]:
    found: list[nn.Module] = [value] if isinstance(value, nn.Module) else list(value)
    for module in found:
        if not isinstance(module, nn.Module):
            raise TypeError(f"modules must be the torch modules that the towers use; got {type(module).__name__}")
    return found


def gradients_enabled() -> None:
    if torch.is_inference_mode_enabled() or not torch.is_grad_enabled():
        raise RuntimeError(
            "CachedStep must be called with gradients enabled, since it computes them; got a call under no_grad() or "
            "inference_mode(); call it outside"
        )


def loss_value(value: Any, name: str) -> Tensor:
    if not isinstance(value, Tensor):
        raise TypeError(f"loss {name!r} must return a tensor with one number; got {type(value).__name__}")
    if value.numel() != 1 or not value.dtype.is_floating_point:
        raise ValueError(
            f"loss {name!r} must return one floating-point number; got {value.dtype} {tuple(value.shape)}; reduce it"
        )
    return value.reshape(())


def _kind(value: Any) -> str:
    return "an empty list" if isinstance(value, Sequence) and not value else type(value).__name__
