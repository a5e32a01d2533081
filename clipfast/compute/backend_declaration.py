"""How a backend says who it is: one ``Declaration`` a file, which ``registry.py`` lists in order of preference."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

import torch

from clipfast.sweep.tile_operations import Backend

Place = Literal["cpu", "accelerator"]


@dataclass(frozen=True)
class Query:
    """What a predicate looks at: the features' device and dtype, and the bytes of one of their rows."""

    device: str
    dtype: torch.dtype
    row_bytes: int = 16

    @property
    def place(self) -> Place:
        return "cpu" if self.device == "cpu" else "accelerator"


@dataclass(frozen=True)
class Declaration:
    """A backend's name, its predicate, how it is made, and where it is chosen by itself.

    ``why_not(query)`` is None if the backend can run the call, otherwise the reason as a sentence that helps the reader; with
    ``query=None`` it speaks of the machine alone. ``make`` loads what the backend needs: nothing is imported before it is
    used. None marks the dense reference, which has no tiles. Without ``chosen_on`` a backend runs by name only.
    """

    name: str
    why_not: Callable[[Query | None], str | None]
    make: Callable[[], Backend] | None
    chosen_on: tuple[Place, ...] = ()
