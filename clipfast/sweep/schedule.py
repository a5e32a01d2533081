"""How a matrix of pairs is cut into tiles, in which order they come, and which exponentials stay between the passes.

All of it is decided here, from numbers alone: a sweep executes a schedule, ``clipfast.plan`` counts it.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace

import torch

from clipfast.common.limits import DEFAULT_WORKSPACE_BYTES, limits


@dataclass(frozen=True)
class Tile:
    """Rows [row0, row1) against columns [col0, col1) of a block.

    ``slot``: where, in logits, the kept memory holds the tile's exponentials from pass 1 to pass 2; None where pass 2
    multiplies again.
    """

    row0: int
    row1: int
    col0: int
    col1: int
    slot: int | None = None

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
    def area(self) -> int:
        return (self.row1 - self.row0) * (self.col1 - self.col0)

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


@dataclass(frozen=True)
class Budget:
    """``workspace_bytes`` divided: a scratch tile and a temporary, the products' results, and the rest for kept tiles.

    On an accelerator the fused kernels leave nothing but the weights, and the workspace is one tile of those. ``itemsize`` is
    of the features as the tiles read them, ``width`` theirs.
    """

    workspace_bytes: int | None
    itemsize: int
    width: int
    device: str = "cpu"

    def __post_init__(self) -> None:
        if self.bytes < self.smallest:
            raise ValueError(
                f"workspace_bytes must be at least {self.smallest}, which one tile of features {self.width} wide takes; got "
                f"{self.workspace_bytes}; the default is {self.default}"
            )

    @property
    def smallest(self) -> int:
        """The fewest bytes with which a sweep can run."""
        return self._temporaries(limits().smallest_side) * self.itemsize

    @property
    def default(self) -> int:
        return DEFAULT_WORKSPACE_BYTES if self.device == "cpu" else limits().macro_side ** 2 * self.itemsize

    @property
    def bytes(self) -> int:
        return self.default if self.workspace_bytes is None else self.workspace_bytes

    def _temporaries(self, side: int) -> int:
        return 2 * side * (side + self.width) if self.device == "cpu" else side**2

    @property
    def side(self) -> int:
        """The largest multiple of the smallest side whose temporaries fit, at most ``limits().tile_side`` on a CPU."""
        elements, step = self.bytes // self.itemsize, limits().smallest_side
        if self.device != "cpu":
            return math.isqrt(elements) // step * step
        fits = (math.isqrt(self.width**2 + 2 * elements) - self.width) // 2
        return max(step, min(limits().tile_side, fits // step * step))

    @property
    def triangle_side(self) -> int:
        """The diagonal tiles of a triangle are computed whole; smaller ones waste less."""
        if self.device == "cpu":
            return min(self.side, limits().tile_side // 2)
        return max(limits().smallest_side, self.side // 2)

    def kept(self, rows: int, cols: int | None, copied: int = 0) -> int:
        """Logits whose exponentials stay between the passes (symbolic sizes allowed: no branch on them).

        ``cols=None``: as many as there is room for, where only the other ranks know how many columns there are. ``copied``:
        elements of a copy of the features that the caller had to make, which counts as workspace too.
        """
        wanted = limits().kept_logits
        if wanted is not None:
            return wanted
        if self.device != "cpu":
            return 0
        # Half as much again as a tile is left to what the product library packs and the allocator rounds.
        spare = self.bytes // self.itemsize - self._temporaries(self.side) - 3 * self.side**2 // 2
        room = torch.sym_max(0, spare - copied)
        return room if cols is None else torch.sym_min(rows * cols, room)


@dataclass(frozen=True)
class Extent:
    """What is swept: one rank's ``rows`` against the columns of all ranks, which come in ``blocks``.

    ``symmetric``: the columns are the rows of all ranks. ``alone``: one process has all of them.
    """

    rows: int
    blocks: tuple[int, ...]
    symmetric: bool = False
    alone: bool = True

    @property
    def triangle(self) -> bool:
        """Whether the tiles on and above the diagonal stand for all."""
        return self.symmetric and self.alone

    @property
    def columns(self) -> int:
        return sum(self.blocks)

    def room(self, budget: Budget) -> int:
        """Logits to keep for a second pass."""
        copied = self.rows * budget.width if self.symmetric else 0  # both views in one matrix
        return int(budget.kept(self.rows, self.columns if self.alone else None, copied))


@dataclass(frozen=True)
class Schedule:
    """Tiles of ``extent``, row strip by row strip of at most ``height`` by ``side``, block after block in both passes.

    ``kept``: logits whose exponentials have a place between the passes. ``by_strips``: both passes visit one strip of rows
    before the next one, and each strip has the kept memory to itself; otherwise the first tiles of a sweep are kept, while
    there is room.
    """

    extent: Extent
    side: int
    height: int
    kept: int
    exact_side: int
    by_strips: bool = False

    @classmethod
    def of(cls, extent: Extent, budget: Budget, kept: int = 0) -> Schedule:
        """A sweep in whole passes that keeps as many exponentials as ``kept`` holds."""
        side = budget.triangle_side if extent.triangle else budget.side
        return cls(extent, side, side, kept, max(limits().smallest_side, budget.side // 2))

    @classmethod
    def laid_out(cls, extent: Extent, kept: int, layout: Sequence[int]) -> Schedule:
        """In whole passes, as ``layout`` of an earlier schedule says: a second pass must find the first one's tiles."""
        side, height, exact_side = layout
        return cls(extent, side, height, kept, exact_side)

    @property
    def layout(self) -> tuple[int, int, int]:
        """Side, height and the exact path's side: with the extent and ``kept`` all that decides the tiles of whole passes."""
        return self.side, self.height, self.exact_side

    @classmethod
    def for_mean(cls, extent: Extent, budget: Budget, one_sided: bool, second_pass: bool) -> Schedule:
        """For value and gradients in one call, where lines of rows alone (``one_sided``) allow both passes strip by strip."""
        whole = cls.of(extent, budget, extent.room(budget) if second_pass else 0)
        height = min(whole.kept // extent.columns, whole.side)
        everything = whole.kept >= extent.rows * extent.columns
        if not one_sided or extent.symmetric or not extent.alone or everything or height < limits().smallest_side:
            return whole
        return replace(whole, height=height, by_strips=True)

    def in_passes(self) -> Schedule:
        """The same in whole passes."""
        return replace(self, height=self.side, by_strips=False)

    def tiles(self, block: int) -> Iterator[Tile]:
        """Those of one block of columns, in order.

        A tile that finds no room takes its area all the same, so that no later, smaller one slips in.
        """
        used = 0 if self.by_strips else self.extent.rows * sum(self.extent.blocks[:block])
        for tile in self._cut(block, self.height, self.side):
            if self.by_strips and tile.col0 == 0:
                used = 0
            slot, used = used, used + tile.area
            yield replace(tile, slot=slot) if used <= self.kept else tile

    def exact_tiles(self, block: int) -> Iterator[Tile]:
        """Those of the exact path: half as large each way, since its numbers are twice as wide and have temporaries."""
        return self._cut(block, self.exact_side, self.exact_side)

    def _cut(self, block: int, height: int, side: int) -> Iterator[Tile]:
        for row0, row1 in strips(self.extent.rows, height):
            for col0, col1 in strips(self.extent.blocks[block], side):
                if not self.extent.triangle or col0 >= row0:
                    yield Tile(row0, row1, col0, col1)

    @property
    def largest(self) -> int:
        """Logits of a scratch tile that serves every tile."""
        return longest(self.extent.rows, max(self.height, self.side)) * max(
            longest(block, self.side) for block in self.extent.blocks
        )

    # What a sweep comes to, for clipfast.plan.

    @property
    def count(self) -> int:
        """Tiles of one pass."""
        across = sum(len(strips(block, self.side)) for block in self.extent.blocks)
        return math.comb(across + 1, 2) if self.extent.triangle else len(strips(self.extent.rows, self.height)) * across

    @property
    def swept(self) -> int:
        """Logits that one pass computes: all, or a triangle's on and above the diagonal, in whole tiles."""
        everything = self.extent.rows * self.extent.columns
        if not self.extent.triangle:
            return everything
        return (everything + sum((end - start) ** 2 for start, end in strips(self.extent.rows, self.side))) // 2

    @property
    def mirrored(self) -> int:
        """Logits whose weights are multiplied a second time, transposed: for the columns, or the triangle's mirror image."""
        if self.extent.symmetric:
            return self.extent.rows * self.extent.columns - self.swept if self.extent.triangle else 0
        return self.swept

    @property
    def found(self) -> int:
        """Logits whose exponentials pass 2 finds."""
        if self.by_strips:
            return self.swept
        every = (tile for block in range(len(self.extent.blocks)) for tile in self.tiles(block))
        return sum(tile.area for tile in itertools.takewhile(lambda tile: tile.slot is not None, every))
