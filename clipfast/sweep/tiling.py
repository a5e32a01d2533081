"""How a matrix of pairs is cut into tiles, and how many of them the workspace keeps between the passes."""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterator
from dataclasses import dataclass

import torch
from torch import Tensor

DEFAULT_WORKSPACE_BYTES = 64 * 2**20
"""Extra memory, beside the gradients, that a loss on the CPU may use (64 MiB)."""

MACRO_SIDE = 8448
"""Tile side on an accelerator: 136 MiB of weights in half precision, enough for the library's products to run at full rate.

The two products of a tile, (side, width) each, are cut by the library into blocks of 128 x 256 results, in waves of one per
multiprocessor. On an H200's 132, 8448 = 66 x 128 fills whole waves at widths 512 and 1024, where 8192 leaves 3% idle. At 768
and 1152 both leave a quarter and a sixth idle, and 16384 little, for 512 MiB: ``workspace_bytes=2 * 16384**2`` buys that.
"""
TILE_SIDE = 1024  # 4 MiB of float32: stays in the last-level cache between the product and its epilogue
SMALLEST_SIDE = 64


@dataclass(frozen=True)
class Tile:
    """Rows [row0, row1) against columns [col0, col1)."""

    row0: int
    row1: int
    col0: int
    col1: int

    @property
    def rows(self) -> slice:
        return slice(self.row0, self.row1)

    @property
    def cols(self) -> slice:
        return slice(self.col0, self.col1)

    @property
    def shape(self) -> tuple[int, int]:
        return self.row1 - self.row0, self.col1 - self.col0

    @property
    def on_diagonal(self) -> bool:
        return self.row0 == self.col0


def strips(length: int, side: int) -> list[tuple[int, int]]:
    """Cut ``length`` into the fewest pieces of at most ``side``, of nearly equal size."""
    count = max(1, math.ceil(length / side))
    edges = [length * k // count for k in range(count + 1)]
    return list(itertools.pairwise(edges))


def longest(length: int, side: int) -> int:
    """Of those pieces."""
    return max(b - a for a, b in strips(length, side))


def tiles(rows: int, cols: int, side: int, triangle: bool, height: int | None = None) -> Iterator[Tile]:
    """All tiles, row strip by row strip, of at most ``side`` each way or ``height`` rows; with ``triangle`` only those on
    and above the diagonal."""
    for row0, row1 in strips(rows, height or side):
        for col0, col1 in strips(cols, side):
            if not triangle or col0 >= row0:
                yield Tile(row0, row1, col0, col1)


@dataclass(frozen=True)
class Budget:
    """``workspace_bytes`` divided: a scratch tile and a temporary, the products' results, and the rest for kept tiles.

    On an accelerator the fused kernels leave nothing but the weights, and the workspace is one tile of those.
    """

    workspace_bytes: int | None
    itemsize: int
    width: int
    device: str = "cpu"

    def __post_init__(self) -> None:
        smallest = self._temporaries(SMALLEST_SIDE) * self.itemsize
        if self.bytes < smallest:
            raise ValueError(
                f"workspace_bytes={self.workspace_bytes} holds no tile of features {self.width} wide; pass at least "
                f"{smallest} (the default is {self.default})"
            )

    @property
    def default(self) -> int:
        return DEFAULT_WORKSPACE_BYTES if self.device == "cpu" else MACRO_SIDE**2 * self.itemsize

    @property
    def bytes(self) -> int:
        return self.default if self.workspace_bytes is None else self.workspace_bytes

    def _temporaries(self, side: int) -> int:
        return 2 * side * (side + self.width) if self.device == "cpu" else side**2

    @property
    def side(self) -> int:
        """The largest multiple of 64 whose temporaries fit, 1024 at most on a CPU."""
        elements = self.bytes // self.itemsize
        if self.device != "cpu":
            return math.isqrt(elements) // SMALLEST_SIDE * SMALLEST_SIDE
        fits = (math.isqrt(self.width**2 + 2 * elements) - self.width) // 2
        return max(SMALLEST_SIDE, min(TILE_SIDE, fits // SMALLEST_SIDE * SMALLEST_SIDE))

    @property
    def triangle_side(self) -> int:
        """The diagonal tiles of a triangle are computed whole; smaller ones waste less."""
        return min(self.side, TILE_SIDE // 2) if self.device == "cpu" else max(SMALLEST_SIDE, self.side // 2)

    def kept_elements(self, rows: int, cols: int | None, copied: int = 0) -> int:
        """Elements of pass 1's tiles that stay for pass 2 (symbolic sizes allowed: no branch on them).

        ``cols=None``: as many as there is room for, where only the other ranks know how many columns there are. ``copied``:
        elements of a copy of the features that the caller had to make, which counts as workspace too.
        """
        if self.device != "cpu":
            return 0
        # Half as much again as a tile is left to what the product library packs and the allocator rounds.
        spare = self.bytes // self.itemsize - self._temporaries(self.side) - 3 * self.side**2 // 2
        room = torch.sym_max(0, spare - copied)
        return room if cols is None else torch.sym_min(rows * cols, room)


class Workspace:
    """Memory for the tiles of one pass, in order: ``kept`` while it has room, then one scratch tile of ``largest`` elements.

    ``consume`` lets pass 2 write over the tiles that pass 1 kept.
    """

    def __init__(self, kept: Tensor, largest: int, consume: bool = False) -> None:
        self.kept = kept
        self.consume = consume
        self.largest = largest
        self.used = 0
        self._scratch: Tensor | None = None

    def place(self, tile: Tile) -> tuple[Tensor, bool]:
        """Pass 1: memory for the tile, and whether its exponentials must be left there for pass 2."""
        slot = self._slot(tile)
        return (self.scratch(tile), False) if slot is None else (slot, True)

    def find(self, tile: Tile) -> tuple[Tensor | None, Tensor]:
        """Pass 2: the tile that pass 1 kept, if it did, and memory to write."""
        slot = self._slot(tile)
        return slot, slot if slot is not None and self.consume else self.scratch(tile)

    def rewind(self) -> None:
        """The next tiles are the first ones again."""
        self.used = 0

    def scratch(self, tile: Tile) -> Tensor:
        if self._scratch is None:
            self._scratch = self.kept.new_empty(self.largest)
        return self._scratch.narrow(0, 0, tile.shape[0] * tile.shape[1]).view(tile.shape)

    def _slot(self, tile: Tile) -> Tensor | None:
        start, area = self.used, tile.shape[0] * tile.shape[1]
        if start + area > self.kept.numel():
            self.used = self.kept.numel()  # no later, smaller tile may slip in: both passes find the same ones
            return None
        self.used += area
        return self.kept.narrow(0, start, area).view(tile.shape)
