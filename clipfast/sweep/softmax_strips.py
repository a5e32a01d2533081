"""The softmax family's mean: value and gradients in one call, since the lines' weights in it are known beforehand.

InfoNCE's rows alone have softmaxes, so a strip of rows is complete after its tiles, and both passes can visit it before the
next one. While the workspace holds a strip's exponentials, the scores are multiplied once: 6 M N D operations instead of 8.
"""

from __future__ import annotations

from dataclasses import replace
from itertools import groupby

import torch
from torch import Tensor

from clipfast.sweep import softmax_passes
from clipfast.sweep.epilogue import Gradients, positive_logits, with_norms
from clipfast.sweep.gradient_sums import GradientSums, Wanted
from clipfast.sweep.lines import LN2, LineFunction, LineResults, choose_shift, close, line_factor, underflowed
from clipfast.sweep.softmax_passes import Upstream, stored_range
from clipfast.sweep.sweep import ColumnBlock, Sweep
from clipfast.sweep.tile_operations import LineFactors, PartialSums


def mean(
    sweep: Sweep, function: LineFunction, weight: Tensor, wanted: Wanted, maxima: bool, dtype: torch.dtype
) -> tuple[LineResults, Gradients]:
    """The lines, and the gradients in ``dtype`` of the sum of their losses weighted by ``weight`` (L,)."""
    kept = sweep.kept()
    if sweep.schedule.by_strips:
        if not maxima:  # strips do not look for them
            strips = _Strips(sweep, function, weight, wanted, kept, dtype)
            outputs = sweep.for_each_block(strips.visit, strips.sums.outputs)
            if not strips.underflowed:
                return strips.lines(), strips.sums.finish(outputs)
        sweep = replace(sweep, schedule=sweep.schedule.in_passes())
    lines = softmax_passes.forward(sweep, function, kept, maxima)
    if not wanted.any:
        return lines, Gradients(None, None, None)
    upstream = Upstream(weight, lines.loss, lines.lse, lines.shift_log2, kept)
    return lines, softmax_passes.backward(sweep, function, upstream, wanted, overwrite=True, dtype=dtype)


class _Strips:
    """Both passes strip by strip. ``underflowed``: one window does not hold a strip's logits; the results are void."""

    def __init__(
        self, sweep: Sweep, function: LineFunction, weight: Tensor, wanted: Wanted, kept: Tensor, dtype: torch.dtype
    ) -> None:
        pairs, partner = sweep.pairs, sweep.pairs.matching.col_of_row
        self.sweep, self.function, self.underflowed = sweep, function, False
        self.unpaired = torch.zeros_like(weight, dtype=torch.bool) if partner is None else partner < 0
        self.weight = weight.masked_fill(self.unpaired, 0.0)
        self.stored, alpha = stored_range(self.weight, sweep)
        self.total = torch.zeros_like(weight)
        self.shift_log2, self.positive = choose_shift(pairs, sweep.exchange.extent), positive_logits(pairs, sweep.backend.rows)
        self.loss, self.lse = torch.empty_like(weight), torch.empty_like(weight)
        self.u, self.v = (weight.new_zeros(count, dtype=pairs.dtype) for count in pairs.shape)
        self.norms = with_norms(torch.ones_like(weight), pairs)
        self.pull = torch.empty_like(weight)  # filled in strip by strip, before the strip's gradient is finished
        self.sums = GradientSums(sweep, wanted, self.pull, alpha, dtype)
        self.workspace = sweep.workspace(kept, overwrite=True)

    def visit(self, block: ColumnBlock) -> None:
        tiles = self.sweep.backend.tiles
        factors = LineFactors(self.shift_log2, self.u, self.v)
        for strip in (list(same) for _, same in groupby(self.sweep.tiles(block), key=lambda tile: tile.row0)):
            for tile in strip:
                tiles.exp_sums(block.pairs, tile, self.shift_log2, PartialSums(self.total), self.workspace)
            if not self._complete(strip[0].rows):
                return
            for tile in strip:
                self.sums.add(block, tile, tiles.weights(block.pairs, tile, factors, self.workspace))

    def _complete(self, r: slice) -> bool:
        """What pass 2 needs of rows ``r``, from their sums."""
        pairs, total = self.sweep.pairs, self.total[r]
        self.underflowed = bool(underflowed(pairs, self.sweep.exchange.extent, self.shift_log2, total))
        negatives = total.log().add_(self.shift_log2 * LN2)
        self.loss[r], self.lse[r], self.positive[r] = close(self.function, negatives, self.positive[r], self.unpaired[r])
        self.u[r] = line_factor(pairs, self.stored[r], self.lse[r], self.shift_log2)
        self.pull[r] = self.norms[r] * (self.weight[r] * self.function.pull(self.loss[r]))
        return not self.underflowed

    def lines(self) -> LineResults:
        return LineResults(self.shift_log2, self.loss, self.lse, self.positive, None)
