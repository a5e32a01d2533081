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
from dataclasses import dataclass, replace
from functools import cached_property
from typing import TYPE_CHECKING, NamedTuple

import torch
from torch import Tensor

from clipfast.distributed.exchange import Out
from clipfast.sweep.epilogue import Gradients, positive_logits
from clipfast.sweep.pairs import Pairs
from clipfast.sweep.products import Products, Wanted
from clipfast.sweep.tiling import Tile

if TYPE_CHECKING:
    from clipfast.sweep.sweep import Sweep, Visit

EXACT = math.inf  # in place of a shift: the sums came from the exact path, and no tile was kept
LN2 = math.log(2)


@dataclass
class Sums:
    """Pass 1's results in units of exp(shift): sums and, where asked for, largest of the rows and of the columns of ``pairs``.

    A triangle's columns are its rows; where columns have no softmax, ``cols`` is empty.
    """

    pairs: Pairs
    rows: list[Tensor]
    cols: list[Tensor]

    @property
    def row_sum(self) -> Tensor:
        return self.rows[0]

    @property
    def row_best(self) -> Tensor | None:
        return self.rows[1] if len(self.rows) > 1 else None

    @property
    def col_sum(self) -> Tensor | None:
        return self.cols[0] if self.cols else None

    @property
    def col_best(self) -> Tensor | None:
        return self.cols[1] if len(self.cols) > 1 else None

    def wants_cols(self, tile: Tile) -> bool:
        return self.col_sum is not None and self.pairs.feeds_columns(tile)


class Shares(NamedTuple):
    """What pass 2 knows of one side's lines (R,). ``factor``: ``share * exp(shift - lse)`` in the compute dtype.

    For the exact path ``share`` and ``lse`` (float64), which is infinite where there is no share. Columns without a softmax
    have factors of 0, and nothing for the exact path.
    """

    factor: Tensor
    share: Tensor | None = None
    lse: Tensor | None = None


@dataclass
class Weights:
    """Pass 2's weights ``W_ij = e_ij (u_i + v_j)``, u and v the factors; pass 1's shift (0-d) is EXACT for the exact path."""

    shift: Tensor
    rows: Shares
    cols: Shares

    @classmethod
    def of(cls, pairs: Pairs, shift: Tensor, share: Tensor, lse: Tensor) -> Weights:
        """Of the lines' weights in the loss and their log-sum-exps (L,)."""
        per_line = (cls.factor(pairs, share, lse, shift), share, lse.masked_fill(share == 0, torch.inf))
        rows, cols = zip(*(pairs.split(values) for values in per_line), strict=True)
        return cls(shift, Shares(*rows), Shares(rows[0].new_zeros(pairs.shape[1])) if cols[0] is None else Shares(*cols))

    @staticmethod
    def factor(pairs: Pairs, share: Tensor, lse: Tensor, shift: Tensor) -> Tensor:
        """``share * exp(shift - lse)`` in the compute dtype."""
        scaled = share * (shift * LN2 - lse).exp_()
        if pairs.partner is not None:  # an unpaired line may have no finite log-sum-exp
            scaled.masked_fill_(share == 0, 0.0)
        return scaled.to(pairs.dtype)

    def against(self, cols: Shares) -> Weights:
        """The same rows with other columns."""
        return self if cols.factor is self.cols.factor else replace(self, cols=cols)

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


def choose_shift(pairs: Pairs, extent: int) -> Tensor:
    """The smallest shift, in whole base-2 steps, under which no sum of ``extent`` exponentials overflows (0-d float64)."""
    headroom = math.log(torch.finfo(pairs.dtype).max) - 2 - math.log(extent)
    return ((pairs.bound - headroom) / LN2).ceil_().clamp_min_(0.0)


def underflow(pairs: Pairs, extent: int, shift: Tensor, sums: Tensor) -> Tensor:
    """Whether a sum is so small that terms of it may have been lost (0-d bool, where the data is)."""
    info = torch.finfo(pairs.dtype)
    smallest = extent * info.tiny / info.eps
    return (-pairs.bound - shift * LN2 < math.log(smallest)) & (sums < smallest).any()


def forward(sweep: Sweep, kept: Tensor, best: bool) -> Lines:
    """Pass 1. ``kept`` receives the exponential tiles that fit; ``best`` asks for the largest negatives."""
    pairs = sweep.pairs
    shift, negatives, largest = _negatives(sweep, kept, best)
    positive = pairs.to_lines(positive_logits(pairs, sweep.ops))
    nll, positive, lse = close(negatives, positive, pairs.unpaired_lines())
    return Lines(shift, nll, lse, positive, largest)


def close(negatives: Tensor, positive: Tensor, unpaired: Tensor | None) -> tuple[Tensor, Tensor, Tensor]:
    """Of the negatives' log-sum-exp and the positive's logit: loss, positive and log-sum-exp of each line."""
    nll = torch.logaddexp(negatives - positive, torch.zeros_like(positive))  # F.softplus is linear above its threshold
    lse = positive + nll
    if unpaired is None:
        return nll, positive, lse
    return nll.masked_fill(unpaired, 0.0), positive.masked_fill(unpaired, 0.0), lse.where(~unpaired, negatives)


def _negatives(sweep: Sweep, kept: Tensor, best: bool) -> tuple[Tensor, Tensor, Tensor | None]:
    """The shift, and each line's log-sum-exp and largest of its negatives."""
    pairs, extent = sweep.pairs, sweep.exchange.extent
    shift, workspace = choose_shift(pairs, extent), sweep.workspace(kept)
    rows = [out.new(pairs.shape[0], pairs.row_factor) for out in _results(pairs, best)]

    def visit(block: Visit) -> None:
        sums = Sums(block.pairs, rows, rows if block.pairs.triangle else block.outs)
        for tile in sweep.tiles(block.pairs):
            sweep.ops.exp_sums(block.pairs, tile, shift, sums, workspace)

    cols = sweep.tour(visit, _results(pairs, best) if pairs.both else ())
    total, *top = (torch.cat(side) for side in zip(rows, cols, strict=True)) if pairs.both else rows
    lost = underflow(pairs, extent, shift, total)
    largest = top[0].double().log_().add_(shift * LN2) if top else None
    return sweep.ops.guarded(sweep, lost, shift, total.log_().add_(shift * LN2), largest)


def _results(pairs: Pairs, best: bool) -> list[Out]:
    """The sums and, where asked for, the largest of the exponentials."""
    return [Out(torch.float64), Out(pairs.dtype, largest=True)][: 2 if best else 1]


def backward(
    sweep: Sweep, wanted: Wanted, share: Tensor, nll: Tensor, lse: Tensor, shift: Tensor, kept: Tensor, consume: bool,
    dtype: torch.dtype,
) -> Gradients:  # fmt: skip
    """Pass 2: the lines' losses weighted by ``share`` (L,), as gradients in ``dtype``. ``consume``: write over ``kept``."""
    pairs, unpaired = sweep.pairs, sweep.pairs.unpaired_lines()
    if unpaired is not None:
        share = share.masked_fill(unpaired, 0.0)
    pull = pairs.sum_of_lines(share * -torch.expm1(-nll))  # 1 - p from -log p, without cancellation
    share, alpha = stored_range(share, sweep)
    weights = Weights.of(pairs, shift, share, lse)
    products, workspace = Products(sweep, wanted, pull, alpha, dtype), sweep.workspace(kept, consume)

    def visit(block: Visit) -> None:
        there = weights.against(Shares(*block.carried))
        for tile in sweep.tiles(block.pairs):
            products.add(block, tile, sweep.ops.softmax_weights(block.pairs, tile, there, workspace))

    carried = tuple(values for values in weights.cols if values is not None)
    return products.finish(sweep.tour(visit, products.outs, carried))


def stored_range(share: Tensor, sweep: Sweep) -> tuple[Tensor, Tensor]:
    """``share`` scaled so that the stored weights fill their dtype whatever gradient comes from above, and what undoes it."""
    largest = sweep.exchange.largest(share.abs().max())
    gain = 2.0**14 if sweep.pairs.rows.x.dtype == torch.float16 else 1.0  # weights stay within [0, 2]: float16 has room above
    alpha = torch.where(largest > 0, largest, 1.0) / gain
    return share / alpha, alpha
