"""Pass 2's accumulators: which gradients are wanted, the two products of each tile that feed them, and their completion."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from clipfast.epilogue import Epilogue, Gradients
from clipfast.pairs import Pairs
from clipfast.tiling import Tile

if TYPE_CHECKING:
    from clipfast.tiles.torch_tiles import TorchTiles


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
    """Accumulates ``rows += W b`` (M, D) and ``cols += W^T a`` (N, D) in float32, and finishes them in ``dtype``.

    A strip of rows is complete after its last tile and finished at once, in place or, where ``dtype`` is narrower, out of
    an accumulator of its own; the columns stay whole until the end.
    """

    def __init__(self, pairs: Pairs, ops: TorchTiles, wanted: Wanted, pull: Tensor, alpha: Tensor, dtype: torch.dtype) -> None:
        self.pairs, self.gemm, self.wanted = pairs, ops.gemm, wanted
        self.epilogue = Epilogue(pairs, ops, pull, alpha, dtype)
        self.rows: Tensor | None = None
        self.cols: Tensor | None = None
        if wanted.rows or (wanted.scale and not wanted.cols):
            self.rows = torch.zeros_like(pairs.rows.x, dtype=pairs.dtype if pairs.triangle else dtype)
        if pairs.triangle:
            self.cols = self.rows  # its mirror image adds to the same accumulator
        elif wanted.cols:
            self.cols = torch.zeros_like(pairs.cols.x, dtype=pairs.dtype)
        self._strip: Strip | None = None

    def add(self, tile: Tile, w: Tensor) -> None:
        strip = self._strip_of(tile)
        if strip.rows is not None:
            self.gemm.add_rows(strip.rows, w, self.pairs.cols.x[tile.cols])
        if self.cols is not None and self.pairs.feeds_columns(tile):
            if strip.transposed is None:
                strip.transposed = self.gemm.transposed(self.pairs.rows.x[tile.rows])
            self.gemm.add_cols(self.cols[tile.cols], w, strip.transposed)

    def finish(self) -> Gradients:
        self._close()
        rows, cols = self.rows, self.cols
        if self.pairs.triangle and rows is not None:
            rows, cols = self.epilogue.whole_rows(rows), None
        elif cols is not None:
            cols = self.epilogue.whole_cols(cols)
        scale = self.epilogue.scale_gradient(rows is not None) if self.wanted.scale else None
        return Gradients(rows if self.wanted.rows else None, cols, scale)

    def _strip_of(self, tile: Tile) -> Strip:
        if self._strip is None or self._strip.place != tile.rows:
            self._close()
            rows = None if self.rows is None else self.rows[tile.rows]
            if rows is not None and rows.dtype != self.pairs.dtype:
                rows = torch.zeros_like(rows, dtype=self.pairs.dtype)
            self._strip = Strip(tile.rows, rows)
        return self._strip

    def _close(self) -> None:
        if self._strip is not None and self._strip.rows is not None and self.rows is not None and not self.pairs.triangle:
            self.epilogue.rows(self._strip.rows, self._strip.place, self.rows[self._strip.place])
        self._strip = None


@dataclass
class Strip:
    """The rows being swept: their accumulator, and their features transposed once for all their tiles."""

    place: slice
    rows: Tensor | None
    transposed: Tensor | None = None
