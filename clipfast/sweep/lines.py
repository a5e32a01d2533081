"""What a line, one softmax over a row or a column, makes of its negatives and its positive; and the shift that all lines share.

The positives are handled apart, in float64: a converged loss (1e-8) and its gradient keep their relative precision, where
``logsumexp - positive`` cancels.
"""

from __future__ import annotations

import math
from typing import NamedTuple, Protocol

import torch
from torch import Tensor

from clipfast.sweep.pairs import Pairs

EXACT = math.inf  # in place of a shift: the sums came from the exact path, and no tile was kept
LN2 = math.log(2)


class LineFunction(Protocol):
    """The loss of a line as a function of ``R``, the log-sum-exp of its negatives, and ``z``, its positive's logit.

    Each line stands alone: the functions are element-wise, leave their arguments as they are, and know nothing but R and z (no
    scale, no parameter of their own). dloss/dR is between 0 and 1, and not tiny on every line: it is the range of the stored
    weights. The pull must follow from the loss even after the loss was rounded to float32. The loss's ``dense`` definition,
    which small batches run, says the same.
    """

    def close(self, negatives: Tensor, positive: Tensor) -> tuple[Tensor, Tensor]:
        """From R and z (L,) float64: the loss, and the normaliser: ``exp(z_j - normaliser)`` is dloss/dz_j of a negative j."""

    def pull(self, loss: Tensor) -> Tensor:
        """``-dloss/dz``, from the loss: what draws the positive's two rows together."""


class CrossEntropy:
    """``softplus(R - z)``, which is ``-log p`` with p the positive's share; the normaliser is the whole line's log-sum-exp."""

    def close(self, negatives: Tensor, positive: Tensor) -> tuple[Tensor, Tensor]:
        loss = torch.logaddexp(negatives - positive, torch.zeros_like(positive))  # F.softplus is linear above its threshold
        return loss, positive + loss

    def pull(self, loss: Tensor) -> Tensor:
        return -torch.expm1(-loss)  # 1 - p, without cancellation


CROSS_ENTROPY = CrossEntropy()


class LineResults(NamedTuple):
    """What pass 1 tells of each line (L,), float64: its loss, normaliser, positive logit and largest negative.

    A line without a positive has loss and positive 0, and its negatives' log-sum-exp as normaliser. ``max_negative`` is None
    where it was not asked for. ``shift_log2`` (0-d) is the sums'.
    """

    shift_log2: Tensor
    loss: Tensor
    lse: Tensor
    positive: Tensor
    max_negative: Tensor | None


def close(function: LineFunction, negatives: Tensor, positive: Tensor, unpaired: Tensor | None) -> tuple[Tensor, ...]:
    """Loss, normaliser and positive of each line, as ``LineResults`` has them."""
    loss, lse = function.close(negatives, positive)
    if unpaired is None:
        return loss, lse, positive
    return loss.masked_fill(unpaired, 0.0), lse.where(~unpaired, negatives), positive.masked_fill(unpaired, 0.0)


def choose_shift(pairs: Pairs, extent: int) -> Tensor:
    """``shift_log2``, the least whole number >= 0 with which no sum of ``extent`` exponentials overflows (0-d float64).

    That holds while the logits, in the compute dtype, are right to within 2.
    """
    headroom = math.log(torch.finfo(pairs.dtype).max) - 2 - math.log(extent)
    return ((pairs.bound - headroom) / LN2).ceil_().clamp_min_(0.0)


def underflowed(pairs: Pairs, extent: int, shift_log2: Tensor, sums: Tensor) -> Tensor:
    """Whether a sum is so small that terms of it may have been lost (0-d bool, where the data is)."""
    info = torch.finfo(pairs.dtype)
    smallest = extent * info.tiny / info.eps
    return (-pairs.bound - shift_log2 * LN2 < math.log(smallest)) & (sums < smallest).any()


def line_factor(pairs: Pairs, upstream: Tensor, lse: Tensor, shift_log2: Tensor) -> Tensor:
    """``u`` or ``v`` of each line: ``upstream * exp(shift - lse)``, shift = shift_log2 * log(2), in the compute dtype."""
    factor = upstream * (shift_log2 * LN2 - lse).exp_()
    if pairs.matching.col_of_row is not None:  # an unpaired line may have no finite log-sum-exp
        factor.masked_fill_(upstream == 0, 0.0)
    return factor.to(pairs.dtype)
