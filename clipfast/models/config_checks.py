"""Checks of configurations and pictures, with one wording of each error."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from torch import Tensor


def check_positive(config: Any, *fields: str) -> None:
    """Raise for a field below 1; None stands for a default."""
    for name in fields:
        value = getattr(config, name)
        if value is not None and value < 1:
            raise ValueError(f"{type(config).__name__}.{name} must be at least 1, but is {value}")


def check_divides(owner: str, width: int, heads: int) -> None:
    if width % heads:
        raise ValueError(f"{owner}: {heads} heads do not divide the width {width}")


def check_choice(config: Any, field: str, accepted: Sequence[str]) -> None:
    value = getattr(config, field)
    if value not in accepted:
        raise ValueError(f"{type(config).__name__}.{field} is one of {', '.join(map(repr, accepted))}, but is {value!r}")


def check_images(images: Tensor, channels: int, size: int) -> None:
    """Raise unless ``images`` are (B, channels, size, size)."""
    if images.ndim != 4 or images.shape[1:] != (channels, size, size):
        raise ValueError(f"images are (B, {channels}, {size}, {size}), but these are {tuple(images.shape)}")
