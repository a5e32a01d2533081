"""Where a sweep's columns come from: this process alone here, a group of processes in ``ring.py`` and ``gather.py``."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import NamedTuple, Protocol

import torch
from torch import Tensor

Show = Callable[[int, tuple[Tensor, ...], list[Tensor]], None]
"""``show(offset, inputs, outputs)``: one block of columns. ``offset``: this rank's first column relative to the block, possibly
outside it. ``inputs``: the columns' tensors, a row for each column; ``outputs``: one tensor for each ``ColumnOutput``, to be
added to."""


class ColumnOutput(NamedTuple):
    """What a rank's rows leave at each column: (columns,) or (columns, width), 0 where nothing was added.

    The ranks' parts are added, or with ``largest`` their maximum is taken, which ``fill`` bounds from below.
    """

    dtype: torch.dtype
    width: int | None = None
    largest: bool = False
    fill: float = 0.0

    def new(self, columns: int, like: Tensor) -> Tensor:
        shape = (columns,) if self.width is None else (columns, self.width)
        return like.new_full(shape, self.fill, dtype=self.dtype) if self.fill else like.new_zeros(shape, dtype=self.dtype)

    def combine(self, mine: Tensor, theirs: Tensor) -> Tensor:
        return torch.maximum(mine, theirs, out=mine) if self.largest else mine.add_(theirs)


class Exchange(Protocol):
    """The ranks of a call, each with rows and columns of its own; every rank sweeps its rows against all columns."""

    @property
    def ranks(self) -> int: ...

    @property
    def extent(self) -> int:
        """All ranks' rows together or all their columns together, whichever are more."""

    @property
    def blocks(self) -> tuple[int, ...]:
        """Columns of each block, in the order in which they are shown."""

    @property
    def sizes(self) -> Tensor:
        """(2, ranks) int64 on the CPU: each rank's rows and columns; empty for a process alone."""

    def for_each_block(self, inputs: tuple[Tensor, ...], outputs: Sequence[ColumnOutput], show: Show) -> list[Tensor]:
        """Show every rank's ``inputs`` to every rank, block by block.

        Returns, for each of ``outputs``, what all ranks left at this rank's own columns.
        """

    def total_rows(self) -> int: ...

    def largest(self, value: Tensor) -> Tensor:
        """The largest of the ranks' values. Among several ranks NaN counts as infinity; a process alone keeps it."""


class Alone:
    """One process: its columns are all there are."""

    ranks = 1

    def __init__(self, rows: int, cols: int) -> None:
        self.rows, self.extent, self.blocks, self.sizes = rows, max(rows, cols), (cols,), torch.empty(0, dtype=torch.int64)

    def for_each_block(self, inputs: tuple[Tensor, ...], outputs: Sequence[ColumnOutput], show: Show) -> list[Tensor]:
        totals = [output.new(inputs[0].shape[0], inputs[0]) for output in outputs]
        show(0, inputs, totals)
        return totals

    def total_rows(self) -> int:
        return self.rows

    def largest(self, value: Tensor) -> Tensor:
        return value
