"""Pass 2's accumulators: which gradients are wanted, and the two products of each tile that feed them."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from clipfast.pairs import Pairs
from clipfast.tiling import Tile

if TYPE_CHECKING:
    from clipfast.gemm import OneDnnGemm, TorchGemm


@dataclass(frozen=True)
class Wanted:
    """Which gradients to compute. The scale's comes with either feature's; alone it costs the rows' product."""

    rows: bool
    cols: bool
    scale: bool
    bias: bool = False

    @property
    def any(self) -> bool:
        return self.rows or self.cols or self.scale or self.bias


class Products:
    """Accumulates ``rows += W b`` (M, D) and ``cols += W^T a`` (N, D), each None where it is not wanted."""

    def __init__(self, pairs: Pairs, gemm: TorchGemm | OneDnnGemm, wanted: Wanted) -> None:
        self.pairs = pairs
        self.gemm = gemm
        self.wanted = wanted
        rows = wanted.rows or (wanted.scale and not wanted.cols)
        self.rows = torch.zeros_like(pairs.rows.x) if rows else None
        # A triangle's columns are its rows; its mirror image adds to the same accumulator.
        self.cols = self.rows if pairs.triangle else torch.zeros_like(pairs.cols.x) if wanted.cols else None
        self._strip: tuple[int, Tensor] | None = None

    def add(self, tile: Tile, w: Tensor) -> None:
        if self.rows is not None:
            self.gemm.add_rows(self.rows[tile.rows], w, self.pairs.cols.x[tile.cols])
        if self.cols is not None and self.pairs.feeds_columns(tile):
            self.gemm.add_cols(self.cols[tile.cols], w, self._transposed(tile))

    def _transposed(self, tile: Tile) -> Tensor:
        """The strip's rows, transposed once for all its tiles."""
        if self._strip is None or self._strip[0] != tile.row0:
            self._strip = tile.row0, self.gemm.transposed(self.pairs.rows.x[tile.rows])
        return self._strip[1]
