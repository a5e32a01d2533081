"""One sweep: a call's pairs, the backend that runs its tiles, their schedule, and the exchange that brings the columns."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import NamedTuple

from torch import Tensor

from clipfast.distributed.exchange import ColumnOutput, Exchange
from clipfast.sweep.pairs import Pairs
from clipfast.sweep.schedule import Schedule, Tile
from clipfast.sweep.tile_operations import Backend, Workspace


class ColumnBlock(NamedTuple):
    """This rank's rows with one block of columns, the ``number``-th of the schedule.

    ``inputs`` belong to the columns, ``outputs`` are to be added to.
    """

    number: int
    pairs: Pairs
    inputs: tuple[Tensor, ...]
    outputs: list[Tensor]

    def feeds_columns(self, tile: Tile) -> bool:
        """Whether the tile's columns get anything of their own: a triangle's diagonal tile is its own mirror image."""
        return not (self.pairs.triangle and tile.on_diagonal)


@dataclass
class Sweep:
    """What all passes share. ``pairs``: this rank's rows and own columns."""

    pairs: Pairs
    backend: Backend
    schedule: Schedule
    exchange: Exchange

    def for_each_block(
        self, visit: Callable[[ColumnBlock], None], outputs: Sequence[ColumnOutput] = (), inputs: tuple[Tensor, ...] = ()
    ) -> list[Tensor]:
        """Visit every block of columns; returns this rank's column outputs, reduced over ranks."""
        inverse = self.pairs.cols.inverse_norm
        features = (self.pairs.cols.x,) if inverse is None else (self.pairs.cols.x, inverse)
        visited = 0

        def show(offset: int, arrived: tuple[Tensor, ...], totals: list[Tensor]) -> None:
            nonlocal visited
            pairs = self.pairs.against(offset, *arrived[: len(features)])
            visit(ColumnBlock(visited, pairs, arrived[len(features) :], totals))
            visited += 1

        return self.exchange.for_each_block((*features, *inputs), outputs, show)

    def tiles(self, block: ColumnBlock) -> Iterator[Tile]:
        return self.schedule.tiles(block.number)

    def kept(self) -> Tensor:
        """Uninitialised memory for the exponentials that stay between the passes."""
        return self.pairs.rows.x.new_empty(self.schedule.kept, dtype=self.pairs.dtype)

    def workspace(self, kept: Tensor, overwrite: bool = False) -> Workspace:
        return Workspace(self.pairs.rows.x, kept, self.schedule.largest, overwrite)
