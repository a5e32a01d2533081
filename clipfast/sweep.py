"""One sweep: the pairs of a call, the backend that runs its tiles, and the memory that they may take."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING

from torch import Tensor

from clipfast.pairs import Pairs, prepare
from clipfast.registry import resolve
from clipfast.tiling import TILE_SIDE, Budget, Tile, Workspace, tiles

if TYPE_CHECKING:
    from clipfast.tiles.torch_tiles import TorchTiles


@dataclass
class Sweep:
    """What both passes share; ``ops`` are the backend's tile operations."""

    pairs: Pairs
    ops: TorchTiles
    budget: Budget

    @classmethod
    def over(
        cls, rows: Tensor, cols: Tensor | None, scale: Tensor, targets: Tensor | None, both: bool, normalize: bool,
        workspace_bytes: int | None, backend: str,
    ) -> Sweep:  # fmt: skip
        """The pairs of ``rows`` with ``cols`` (None: with themselves), on ``backend``."""
        ops = resolve(backend, rows)
        pairs = prepare(rows, cols, scale, targets, both, normalize, ops)
        return cls(pairs, ops, Budget(workspace_bytes, pairs.rows.x.dtype.itemsize, rows.shape[1], rows.device.type))

    def tiles(self) -> Iterator[Tile]:
        return tiles(*self.pairs.shape, self.side, self.pairs.triangle)

    @property
    def side(self) -> int:
        # The diagonal tiles of a triangle are computed whole; smaller ones waste less.
        return min(self.budget.side, TILE_SIDE // 2) if self.pairs.triangle else self.budget.side

    def kept(self, wanted: bool) -> Tensor:
        """Uninitialised memory for the tiles that stay between the passes; empty where no second pass follows."""
        copied = self.pairs.rows.x.numel() if self.pairs.triangle else 0  # NT-Xent's two views in one matrix
        return self.pairs.rows.x.new_empty(self.budget.kept_elements(*self.pairs.shape, copied) if wanted else 0)

    def workspace(self, kept: Tensor, consume: bool = False) -> Workspace:
        return Workspace(kept, self.pairs.shape, self.side, consume)
