"""Pass 2's accumulators: which gradients are wanted, the two products of each tile that feed them, and their completion."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from clipfast.distributed.exchange import ColumnOutput
from clipfast.sweep.epilogue import Epilogue, Gradients
from clipfast.sweep.schedule import Tile
from clipfast.sweep.sweep import ColumnBlock, Sweep


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


class GradientSums:
    """Accumulates ``rows += W y`` (M, D) and ``cols += W^T x`` (N, D) in the compute dtype, and finishes them in ``dtype``.

    A strip of rows is complete after its last tile and is finished at once: in place or, where ``dtype`` is narrower, from an
    accumulator of its own. Where several blocks of columns or a triangle's mirror image add to the rows, their accumulator
    stays whole until the end (``whole``), as the columns' always does.
    """

    def __init__(self, sweep: Sweep, wanted: Wanted, pull: Tensor, alpha: Tensor, dtype: torch.dtype) -> None:
        self.pairs, self.products, self.wanted = sweep.pairs, sweep.backend.products, wanted
        pairs = self.pairs
        self.epilogue = Epilogue(pairs, sweep.backend.rows, pull, alpha, dtype)
        self.whole = pairs.triangle or len(sweep.exchange.blocks) > 1
        self.rows: Tensor | None = None
        if wanted.rows or (wanted.scale and not wanted.cols):
            self.rows = torch.zeros_like(pairs.rows.x, dtype=pairs.dtype if self.whole else dtype)
        self._strip: _Strip | None = None

    @property
    def outputs(self) -> list[ColumnOutput]:
        """The columns' accumulator. A symmetric matrix's columns are its rows."""
        wanted = self.wanted.cols and not self.pairs.symmetric
        return [ColumnOutput(self.pairs.dtype, self.pairs.cols.x.shape[1])] if wanted else []

    def add(self, block: ColumnBlock, tile: Tile, w: Tensor | None) -> None:
        """``w``: the weights of a tile of ``block.pairs``; None where no gradient asks for them."""
        if w is None:
            return
        strip = self._strip_of(tile)
        if strip.rows is not None:
            self.products.add_rows(strip.rows, w, block.pairs.cols.x[tile.cols])
        cols = self.rows if self.pairs.triangle else block.outputs[0] if block.outputs else None
        if cols is not None and block.feeds_columns(tile):
            if strip.transposed is None:
                strip.transposed = self.products.transposed(self.pairs.rows.x[tile.rows])
            self.products.add_cols(cols[tile.cols], w, strip.transposed)

    def finish(self, outputs: list[Tensor]) -> Gradients:
        """``outputs``: the columns' accumulator, if there is one."""
        self._close()
        rows = self.epilogue.whole_rows(self.rows) if self.whole and self.rows is not None else self.rows
        cols = self.epilogue.whole_cols(outputs[0]) if outputs else None
        scale = self.epilogue.scale_gradient(rows is not None) if self.wanted.scale else None
        return Gradients(rows if self.wanted.rows else None, cols, scale)

    def _strip_of(self, tile: Tile) -> _Strip:
        if self._strip is None or self._strip.place != tile.rows:
            self._close()
            rows = None if self.rows is None else self.rows[tile.rows]
            if rows is not None and rows.dtype != self.pairs.dtype:
                rows = torch.zeros_like(rows, dtype=self.pairs.dtype)
            self._strip = _Strip(tile.rows, rows)
        return self._strip

    def _close(self) -> None:
        if self._strip is not None and self._strip.rows is not None and self.rows is not None and not self.whole:
            self.epilogue.rows(self._strip.rows, self._strip.place, self.rows[self._strip.place])
        self._strip = None


@dataclass
class _Strip:
    """The rows being swept: their accumulator, and their features transposed once for all their tiles."""

    place: slice
    rows: Tensor | None
    transposed: Tensor | None = None
