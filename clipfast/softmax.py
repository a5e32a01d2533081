"""The softmax family as two sweeps over tiles (CLIP, InfoNCE, NT-Xent).

Pass 1 sums ``e_ij = exp(z_ij - shift)`` over the *negatives* of each line, with one shift for the whole batch, so that
partial sums of any tiles simply add. The positives are handled apart in float64, which keeps a converged loss (1e-8)
and its gradient at full relative precision, where ``logsumexp - positive`` cancels. Pass 2 forms
``W_ij = e_ij (u_i + v_j)`` tile by tile and multiplies it with the features.

A *line* is a row or a column with a softmax of its own: the M rows, then, for CLIP's two directions, the N columns.
Vectors over lines keep both directions in one piece.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, NamedTuple

import torch
from torch import Tensor

from clipfast.epilogue import Gradients, positive_logits
from clipfast.pairs import Pairs
from clipfast.products import Products, Wanted
from clipfast.tiling import Tile

if TYPE_CHECKING:
    from clipfast.sweep import Sweep

EXACT = math.inf  # in place of a shift: the sums came from the exact path, and no tile was kept
LN2 = math.log(2)


@dataclass
class Sums:
    """Pass 1's results in units of exp(shift), as views of one vector of lines. A triangle's directions are one."""

    row_sum: Tensor
    col_sum: Tensor | None
    row_best: Tensor | None
    col_best: Tensor | None
    pairs: Pairs

    @classmethod
    def of(cls, pairs: Pairs, sums: Tensor, best: Tensor | None) -> Sums:
        (row_sum, col_sum), (row_best, col_best) = pairs.split(sums), pairs.split(best)
        assert row_sum is not None
        return cls(row_sum, col_sum, row_best, col_best, pairs)

    def wants_cols(self, tile: Tile) -> bool:
        return self.col_sum is not None and self.pairs.feeds_columns(tile)


@dataclass
class Weights:
    """Pass 2's weights of the lines: ``share`` (L,), ``lse`` (L,), and the shift of pass 1 (0-d, EXACT for the exact path)."""

    pairs: Pairs
    shift: Tensor
    share: Tensor
    lse: Tensor

    @cached_property
    def factors(self) -> tuple[Tensor, Tensor]:
        """``u_i = share_i exp(shift - lse_i)`` (M,) and ``v_j`` likewise (N,), in the compute dtype."""
        scaled, unpaired = self.share * (self.shift * LN2 - self.lse).exp_(), self.pairs.unpaired_lines()
        u, v = self.pairs.split((scaled if unpaired is None else scaled.masked_fill_(unpaired, 0.0)).to(self.pairs.dtype))
        assert u is not None
        return u, u.new_zeros(self.pairs.shape[1]) if v is None else v

    @cached_property
    def exact(self) -> tuple[Tensor | None, Tensor | None, Tensor | None, Tensor | None]:
        """For the exact path: shares of rows and columns, and their log-sum-exps, infinite where there is no share."""
        return *self.pairs.split(self.share), *self.pairs.split(self.lse.masked_fill(self.share == 0, torch.inf))

    @cached_property
    def on_exact_path(self) -> bool:
        """A look at the shift from the host."""
        return float(self.shift) == EXACT


class Lines(NamedTuple):
    """What pass 1 tells of each line (L,), float64: its loss, log-sum-exp, positive logit and largest negative.

    A line without a positive has loss and positive 0. ``best`` is None where it was not asked for.
    """

    shift: Tensor
    nll: Tensor
    lse: Tensor
    positive: Tensor
    best: Tensor | None


def choose_shift(pairs: Pairs) -> Tensor:
    """The smallest shift, in whole base-2 steps, under which no sum of ``cols`` exponentials overflows (0-d float64)."""
    headroom = math.log(torch.finfo(pairs.dtype).max) - 2 - math.log(max(pairs.shape))
    return ((pairs.bound - headroom) / LN2).ceil_().clamp_min_(0.0)


def _underflow(pairs: Pairs, shift: Tensor, sums: Tensor) -> Tensor:
    """Whether a sum is so small that terms of it may have been lost (0-d bool, where the data is)."""
    info = torch.finfo(pairs.dtype)
    smallest = max(pairs.shape) * info.tiny / info.eps
    return (-pairs.bound - shift * LN2 < math.log(smallest)) & (sums < smallest).any()


def forward(sweep: Sweep, kept: Tensor, best: bool) -> Lines:
    """Pass 1. ``kept`` receives the exponential tiles that fit; ``best`` asks for the largest negatives."""
    pairs = sweep.pairs
    shift, negatives, largest = _negatives(sweep, kept, best)
    positive = pairs.to_lines(positive_logits(pairs, sweep.ops))
    nll = torch.logaddexp(negatives - positive, torch.zeros_like(positive))  # F.softplus is linear above its threshold
    lse = positive + nll
    unpaired = pairs.unpaired_lines()
    if unpaired is not None:
        nll, positive, lse = (
            nll.masked_fill(unpaired, 0.0),
            positive.masked_fill(unpaired, 0.0),
            lse.where(~unpaired, negatives),
        )
    return Lines(shift, nll, lse, positive, largest)


def _negatives(sweep: Sweep, kept: Tensor, best: bool) -> tuple[Tensor, Tensor, Tensor | None]:
    """The shift, and each line's log-sum-exp and largest of its negatives."""
    pairs, shift = sweep.pairs, choose_shift(sweep.pairs)
    total = pairs.row_factor.new_zeros(pairs.lines)
    top = total.new_zeros(pairs.lines, dtype=pairs.dtype) if best else None
    sums = Sums.of(pairs, total, top)
    workspace = sweep.workspace(kept)
    for tile in sweep.tiles():
        sweep.ops.exp_sums(pairs, tile, shift, sums, workspace)
    lost = _underflow(pairs, shift, total)
    largest = None if top is None else top.double().log_().add_(shift * LN2)
    return sweep.ops.guarded(sweep, lost, shift, total.log_().add_(shift * LN2), largest)


def backward(
    sweep: Sweep, wanted: Wanted, share: Tensor, nll: Tensor, lse: Tensor, shift: Tensor, kept: Tensor, consume: bool,
    dtype: torch.dtype,
) -> Gradients:  # fmt: skip
    """Pass 2: the lines' losses weighted by ``share`` (L,), as gradients in ``dtype``. ``consume``: write over ``kept``."""
    pairs, unpaired = sweep.pairs, sweep.pairs.unpaired_lines()
    if unpaired is not None:
        share = share.masked_fill(unpaired, 0.0)
    pull = pairs.sum_of_lines(share * -torch.expm1(-nll))  # 1 - p from -log p, without cancellation
    share, alpha = stored_range(share, pairs)
    weights = Weights(pairs, shift, share, lse)
    products, workspace = Products(pairs, sweep.ops, wanted, pull, alpha, dtype), sweep.workspace(kept, consume)
    for tile in sweep.tiles():
        products.add(tile, sweep.ops.softmax_weights(pairs, tile, weights, workspace))
    return products.finish()


def stored_range(share: Tensor, pairs: Pairs) -> tuple[Tensor, Tensor]:
    """``share`` scaled so that the stored weights fill their dtype whatever gradient comes from above, and what undoes it."""
    largest = share.abs().max()
    gain = 2.0**14 if pairs.rows.x.dtype == torch.float16 else 1.0  # weights stay within [0, 2]: float16 has room above
    alpha = torch.where(largest > 0, largest, 1.0) / gain
    return share / alpha, alpha
