"""The softmax family's mean: value and gradients in one call, since the lines' weights in it are known beforehand.

InfoNCE's rows alone have softmaxes, so a strip of rows is complete after its tiles, and both passes can visit it before the
next one. While the workspace holds a strip's exponentials, the scores are multiplied once: 6 M N D operations instead of 8.
"""

from __future__ import annotations

from itertools import groupby
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from clipfast.sweep import softmax_passes as softmax
from clipfast.sweep.epilogue import Gradients, positive_logits
from clipfast.sweep.products import Products, Wanted
from clipfast.sweep.softmax_passes import LN2, Lines, Shares, Sums, Weights
from clipfast.sweep.tiling import SMALLEST_SIDE, tiles

if TYPE_CHECKING:
    from clipfast.sweep.sweep import Sweep, Visit


def mean(sweep: Sweep, wanted: Wanted, share: Tensor, best: bool, dtype: torch.dtype) -> tuple[Lines, Gradients]:
    """The lines, and the gradients in ``dtype`` of the sum of their losses weighted by ``share`` (L,)."""
    kept = sweep.kept(wanted.any)
    height = _strip_height(sweep, kept)
    if height and wanted.any:
        strips = _Strips(sweep, wanted, share, kept, height, dtype)
        outs = sweep.tour(strips.visit, strips.products.outs)
        if not strips.lost:
            return strips.lines(), strips.products.finish(outs)
    lines = softmax.forward(sweep, kept, best)
    if not wanted.any:
        return lines, Gradients(None, None, None)
    return lines, softmax.backward(sweep, wanted, share, lines.nll, lines.lse, lines.shift, kept, consume=True, dtype=dtype)


def _strip_height(sweep: Sweep, kept: Tensor) -> int:
    """Rows of a strip whose exponentials ``kept`` holds; 0 where whole passes serve better."""
    pairs, (m, n) = sweep.pairs, sweep.pairs.shape
    height = min(kept.numel() // n, sweep.side)
    everything = kept.numel() >= m * n
    return 0 if pairs.both or pairs.symmetric or everything or height < SMALLEST_SIDE else height


class _Strips:
    """Both passes strip by strip. ``lost``: one window does not hold a strip's logits, and the results are good for nothing."""

    def __init__(self, sweep: Sweep, wanted: Wanted, share: Tensor, kept: Tensor, height: int, dtype: torch.dtype) -> None:
        pairs = sweep.pairs
        self.sweep, self.height, self.extent, self.lost = sweep, height, sweep.exchange.extent, False
        self.shift, self.positive = softmax.choose_shift(pairs, self.extent), positive_logits(pairs, sweep.ops)
        self.unpaired = torch.zeros_like(share, dtype=torch.bool) if pairs.partner is None else pairs.partner < 0
        self.share = share.masked_fill(self.unpaired, 0.0)
        self.stored, alpha = softmax.stored_range(self.share, sweep)
        self.total = torch.zeros_like(share)
        self.nll, self.lse = torch.empty_like(share), torch.empty_like(share)
        factors = (share.new_zeros(count, dtype=pairs.dtype) for count in pairs.shape)
        self.weights = Weights(self.shift, *(Shares(factor) for factor in factors))
        pull = torch.ones_like(share)  # multiplied by a strip's own when the strip is complete
        self.products = Products(sweep, wanted, pull, alpha, dtype)
        self.workspace = sweep.workspace(kept, consume=True)

    def visit(self, block: Visit) -> None:
        everything = tiles(*block.pairs.shape, self.sweep.side, False, self.height)
        sums = Sums(block.pairs, [self.total], [])
        for strip in (list(same) for _, same in groupby(everything, key=lambda tile: tile.row0)):
            for tile in strip:
                self.sweep.ops.exp_sums(block.pairs, tile, self.shift, sums, self.workspace)
            self.workspace.rewind()
            if not self._complete(strip[0].rows):
                return
            for tile in strip:
                self.products.add(block, tile, self.sweep.ops.softmax_weights(block.pairs, tile, self.weights, self.workspace))
            self.workspace.rewind()

    def _complete(self, r: slice) -> bool:
        """What pass 2 needs of rows ``r``, from their sums."""
        pairs, total = self.sweep.pairs, self.total[r]
        self.lost = bool(softmax.underflow(pairs, self.extent, self.shift, total))
        self.nll[r], self.positive[r], self.lse[r] = softmax.close(
            total.log().add_(self.shift * LN2), self.positive[r], self.unpaired[r]
        )
        self.weights.rows.factor[r] = Weights.factor(pairs, self.stored[r], self.lse[r], self.shift)
        self.products.epilogue.pull[r] *= self.share[r] * -torch.expm1(-self.nll[r])
        return not self.lost

    def lines(self) -> Lines:
        return Lines(self.shift, self.nll, self.lse, self.positive, None)
