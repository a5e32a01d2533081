"""One sweep: the pairs of a call, the backend that runs its tiles, the memory that they may take, and who brings columns."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, NamedTuple

from torch import Tensor

from clipfast.backends.registry import resolve
from clipfast.distributed.exchange import Exchange, Out
from clipfast.sweep.pairs import Pairs, prepare
from clipfast.sweep.tiling import Budget, Tile, Workspace, longest, tiles

if TYPE_CHECKING:
    from clipfast.backends.torch_backend import TorchTiles


class Visit(NamedTuple):
    """This rank's rows with one block of columns; ``carried`` belongs to the columns, and ``outs`` is to be added to."""

    pairs: Pairs
    carried: tuple[Tensor, ...]
    outs: list[Tensor]


@dataclass
class Sweep:
    """What both passes share; ``ops`` are the backend's tile operations. ``pairs``: this rank's rows and own columns."""

    pairs: Pairs
    ops: TorchTiles
    budget: Budget
    exchange: Exchange

    @classmethod
    def over(
        cls, rows: Tensor, cols: Tensor | None, scale: Tensor, targets: Tensor | None, both: bool, normalize: bool,
        workspace_bytes: int | None, backend: str, exchange: Exchange,
    ) -> Sweep:  # fmt: skip
        """The pairs of ``rows`` with ``cols`` (None: with themselves), on ``backend``."""
        ops = resolve(backend, rows)
        pairs = prepare(rows, cols, scale, targets, both, normalize, ops, exchange)
        budget = Budget(workspace_bytes, pairs.rows.x.dtype.itemsize, rows.shape[1], rows.device.type)
        return cls(pairs, ops, budget, exchange)

    def tour(self, visit: Callable[[Visit], None], outs: Sequence[Out] = (), carried: tuple[Tensor, ...] = ()) -> list[Tensor]:
        """Show this rank's rows all columns, block by block; of each out, what all ranks left at this rank's own columns."""
        inverse = self.pairs.cols.inverse_norm
        features = (self.pairs.cols.x,) if inverse is None else (self.pairs.cols.x, inverse)

        def show(offset: int, arrived: tuple[Tensor, ...], totals: list[Tensor]) -> None:
            block = self.pairs.against(offset, *arrived[: len(features)])
            visit(Visit(block, arrived[len(features) :], totals))

        return self.exchange.tour((*features, *carried), outs, show)

    def tiles(self, pairs: Pairs) -> Iterator[Tile]:
        return tiles(*pairs.shape, self.side, pairs.triangle)

    @property
    def side(self) -> int:
        return self.budget.triangle_side if self.pairs.triangle else self.budget.side

    def kept(self, wanted: bool) -> Tensor:
        """Uninitialised memory for the tiles that stay between the passes; empty where no second pass follows."""
        rows, cols = self.pairs.shape
        copied = self.pairs.rows.x.numel() if self.pairs.symmetric else 0  # NT-Xent's two views in one matrix
        room = self.budget.kept_elements(rows, cols if self.exchange.ranks == 1 else None, copied)
        return self.pairs.rows.x.new_empty(room if wanted else 0)

    def workspace(self, kept: Tensor, consume: bool = False) -> Workspace:
        cols = max(longest(length, self.side) for length in self.exchange.blocks)
        return Workspace(kept, longest(self.pairs.shape[0], self.side) * cols, consume)
