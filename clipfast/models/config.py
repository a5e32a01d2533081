"""What fixes a model's shape. The values are plain numbers, so that ``dataclasses.asdict`` can go into a checkpoint."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True)
class VisionConfig:
    """A vision transformer over square patches of a square picture."""

    image_size: int
    patch_size: int
    width: int
    layers: int
    heads: int
    channels: int = 3

    def __post_init__(self) -> None:
        _check_sizes("VisionConfig", self.__dict__)
        _check_heads("VisionConfig", self.width, self.heads)
        if self.image_size % self.patch_size:
            raise ValueError(f"patch_size {self.patch_size} does not divide image_size {self.image_size}")

    @property
    def tokens(self) -> int:
        """The patches and the class token."""
        return (self.image_size // self.patch_size) ** 2 + 1


@dataclass(frozen=True)
class TextConfig:
    """A causal text transformer over ``context_length`` token ids below ``vocab_size``; the highest id ends a text."""

    context_length: int
    vocab_size: int
    width: int
    layers: int
    heads: int

    def __post_init__(self) -> None:
        _check_sizes("TextConfig", self.__dict__)
        _check_heads("TextConfig", self.width, self.heads)


@dataclass(frozen=True)
class ClipConfig:
    """Both towers and the width that they share."""

    embed_dim: int
    vision: VisionConfig
    text: TextConfig

    def __post_init__(self) -> None:
        _check_sizes("ClipConfig", {"embed_dim": self.embed_dim})

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> ClipConfig:
        """The inverse of ``dataclasses.asdict``."""
        return cls(values["embed_dim"], VisionConfig(**values["vision"]), TextConfig(**values["text"]))


def _check_sizes(owner: str, values: Mapping[str, int]) -> None:
    for name, value in values.items():
        if value < 1:
            raise ValueError(f"{owner}.{name} must be at least 1, but is {value}")


def _check_heads(owner: str, width: int, heads: int) -> None:
    if width % heads:
        raise ValueError(f"{owner}: {heads} heads do not divide the width {width}")
