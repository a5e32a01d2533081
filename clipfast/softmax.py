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
from typing import TYPE_CHECKING, NamedTuple

import torch
from torch import Tensor

from clipfast import exact
from clipfast.epilogue import Gradients, finish, positive_logits
from clipfast.pairs import Pairs
from clipfast.products import Products, Wanted
from clipfast.tiling import Tile

if TYPE_CHECKING:
    from clipfast.sweep import Sweep

EXACT = math.inf  # in place of a shift: the sums came from the exact path, and no tile was kept


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
    """Pass 2's ``u`` (M,) and ``v`` (N,); on the exact path the bare shares and the log-sum-exps that go with them."""

    shift: float
    rows: Tensor
    cols: Tensor
    row_lse: Tensor | None = None
    col_lse: Tensor | None = None


class Lines(NamedTuple):
    """What pass 1 tells of each line (L,), float64: its loss, log-sum-exp, positive logit and largest negative.

    A line without a positive has loss and positive 0. ``best`` is None where it was not asked for.
    """

    shift: float
    nll: Tensor
    lse: Tensor
    positive: Tensor
    best: Tensor | None


def choose_shift(pairs: Pairs) -> float:
    """The smallest shift, in whole base-2 steps, under which no sum of ``cols`` exponentials overflows."""
    bound = pairs.bound
    if not math.isfinite(bound):
        return math.nan
    headroom = math.log(torch.finfo(pairs.dtype).max) - 2 - math.log(max(pairs.shape))
    return math.log(2) * max(0, math.ceil((bound - headroom) / math.log(2)))


def _underflow(pairs: Pairs, shift: float, sums: Tensor) -> bool:
    """Whether a sum is so small that terms of it may have been lost."""
    info = torch.finfo(pairs.dtype)
    smallest = max(pairs.shape) * info.tiny / info.eps
    return -pairs.bound - shift < math.log(smallest) and bool((sums < smallest).any())


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


def _negatives(sweep: Sweep, kept: Tensor, best: bool) -> tuple[float, Tensor, Tensor | None]:
    """The shift, and each line's log-sum-exp and largest of its negatives."""
    pairs, shift = sweep.pairs, choose_shift(sweep.pairs)
    total = pairs.row_factor.new_zeros(pairs.lines)
    top = pairs.rows.x.new_zeros(pairs.lines) if best else None
    sums = Sums.of(pairs, total, top)
    workspace = sweep.workspace(kept)
    for tile in sweep.tiles():
        sweep.ops.exp_sums(pairs, tile, shift, sums, *workspace.place(tile))
    if _underflow(pairs, shift, total):
        return EXACT, *exact.forward(sweep)
    return shift, total.log_().add_(shift), None if top is None else top.double().log_().add_(shift)


def backward(
    sweep: Sweep, wanted: Wanted, share: Tensor, nll: Tensor, lse: Tensor, shift: float, kept: Tensor, consume: bool
) -> Gradients:
    """Pass 2: gradients of the lines' losses weighted by ``share`` (L,). ``consume``: it may write over ``kept``."""
    pairs, unpaired = sweep.pairs, sweep.pairs.unpaired_lines()
    if unpaired is not None:
        share = share.masked_fill(unpaired, 0.0)
    pull = pairs.sum_of_lines(share * -torch.expm1(-nll))  # 1 - p from -log p, without cancellation
    alpha = float(share.abs().max()) or 1.0  # the weights stay within [0, 2] whatever gradient comes from above
    w = _weights(pairs, shift, lse, share / alpha)
    products, workspace = Products(pairs, sweep.ops.gemm, wanted), sweep.workspace(kept, consume)
    for tile in sweep.tiles():
        exponentials, out = workspace.find(tile)
        if shift == EXACT:
            products.add(tile, exact.softmax_weights(pairs, tile, w, out))
        else:
            products.add(tile, sweep.ops.softmax_weights(pairs, tile, w, exponentials, out))
    return finish(pairs, sweep.ops, products, pull, alpha)


def _weights(pairs: Pairs, shift: float, lse: Tensor, share: Tensor) -> Weights:
    """``u_i = share_i exp(shift - lse_i)`` and ``v_j`` likewise."""
    if shift == EXACT:
        (u, v), (row_lse, col_lse) = pairs.split(share), pairs.split(lse.masked_fill(share == 0, torch.inf))
    else:
        scaled = share * (shift - lse).exp_()
        unpaired = pairs.unpaired_lines()
        u, v = pairs.split((scaled if unpaired is None else scaled.masked_fill_(unpaired, 0.0)).to(pairs.dtype))
        row_lse = col_lse = None
    assert u is not None
    return Weights(shift, u, u.new_zeros(pairs.shape[1]) if v is None else v, row_lse, col_lse)
