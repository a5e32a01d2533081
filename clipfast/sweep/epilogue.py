"""What is left after the tiles, in O(N D): the positives' part, the normalisation's Jacobian, the scale's gradient."""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

import torch
from torch import Tensor

from clipfast.sweep.pairs import Pairs, Side

if TYPE_CHECKING:
    from clipfast.backends.torch_backend import TorchTiles

ROWS_AT_ONCE = 1024  # bounds the temporaries where rows are scattered or narrowed


class Gradients(NamedTuple):
    """Of the rows (M, D), the columns (N, D) and the scale (0-d float64); None where not wanted."""

    rows: Tensor | None
    cols: Tensor | None
    scale: Tensor | None


def positive_logits(pairs: Pairs, ops: TorchTiles) -> Tensor:
    """Each row's positive logit (M,), accumulated in float64; 0 where the row has no positive."""
    z = ops.paired_dots(pairs.rows.x, pairs.cols.x, pairs.partner) * pairs.row_factor
    if pairs.cols.inverse_norm is None:
        return z
    return z * _at_partner(pairs.cols.inverse_norm, pairs.partner)


class Epilogue:
    """Turns the accumulated ``W b`` and ``W^T a`` into gradients of the features in ``dtype``.

    ``pull`` (M,) is minus the loss's derivative by each positive logit; ``alpha`` (0-d) multiplies the accumulators.
    """

    def __init__(self, pairs: Pairs, ops: TorchTiles, pull: Tensor, alpha: Tensor, dtype: torch.dtype) -> None:
        self.pairs, self.ops, self.alpha, self.dtype = pairs, ops, alpha, dtype
        # Added up at once: small pieces kept for each strip would pin the heap between the tiles' temporaries.
        self.row_dots = alpha.new_zeros(())
        self.col_dots = alpha.new_zeros(())
        if pairs.rows.inverse_norm is not None and pairs.cols.inverse_norm is not None:
            pull = pull * pairs.rows.inverse_norm * _at_partner(pairs.cols.inverse_norm, pairs.partner)
        self.pull = pull

    def rows(self, grad: Tensor, r: slice, out: Tensor) -> None:
        """Finish rows ``r`` of the gradient from their accumulator ``grad`` into ``out``, which may be the same."""
        dots = self._finish(grad, r, self.pairs.rows, self.pairs.cols, self.pairs.partner, self.pull, out)
        self.row_dots += dots.sum()

    def whole_rows(self, grad: Tensor) -> Tensor:
        """All rows that are complete only at the end."""
        return self._narrowed(grad, self.rows)

    def whole_cols(self, grad: Tensor) -> Tensor:
        pairs = self.pairs
        if pairs.partner is not None and pairs.back is None:
            self._scatter(grad)
            return self._narrowed(grad, self._scattered_cols)
        return self._narrowed(grad, self._cols)

    def scale_gradient(self, rows: bool) -> Tensor:
        """``sum_i <x_i, dx_i> / scale`` over the rows or the columns, which give the same (0-d float64)."""
        total = self.row_dots if rows else self.col_dots
        return total / 2 if self.pairs.symmetric else total

    def _cols(self, grad: Tensor, r: slice, out: Tensor) -> None:
        back = self.pairs.back
        own = self.pull if back is None else self.pull[back.clamp_min(0)]
        self.col_dots += self._finish(grad, r, self.pairs.cols, self.pairs.rows, back, own, out).sum()

    def _scattered_cols(self, grad: Tensor, r: slice, out: Tensor) -> None:
        side, one = self.pairs.cols, torch.ones_like(self.alpha)
        projection = None if side.projection is None else side.projection[r]
        self.col_dots += self.ops.finish_rows(grad, side.x[r], None, None, None, projection, one, self.pairs.scale, out).sum()

    def _finish(
        self, grad: Tensor, r: slice, side: Side, other: Side, partner: Tensor | None, pull: Tensor, out: Tensor
    ) -> Tensor:  # fmt: skip
        alpha = self.alpha if side.outer is None or other.top is None else self.alpha * other.top * side.outer[r]
        projection = None if side.projection is None else side.projection[r]
        y, mate = (other.x[r], None) if partner is None else (other.x, partner[r])
        return self.ops.finish_rows(grad, side.x[r], y, mate, pull[r], projection, alpha, self.pairs.scale, out)

    def _scatter(self, grad: Tensor) -> None:
        """Several rows may share a column: add up the positives' part row by row (index_put_ adds in a fixed order)."""
        pairs, partner = self.pairs, self.pairs.partner
        assert partner is not None
        alpha = self.alpha
        if pairs.cols.outer is not None and pairs.rows.top is not None:
            alpha = (alpha * pairs.rows.top * pairs.cols.outer).unsqueeze(1)
        grad.mul_(alpha.to(grad.dtype))
        for start in range(0, pairs.shape[0], ROWS_AT_ONCE):
            r = slice(start, start + ROWS_AT_ONCE)
            pull = self.pull[r].masked_fill(partner[r] < 0, 0.0).to(grad.dtype)
            grad.index_put_((partner[r].clamp_min(0),), -pull.unsqueeze(1) * pairs.rows.x[r], accumulate=True)

    def _narrowed(self, grad: Tensor, finish) -> Tensor:
        """``finish`` applied to all rows, in place where ``dtype`` is the accumulator's.

        A narrower result is packed into the front of the accumulator's own memory, piece by piece in ascending order:
        what is overwritten has been read before, and no second matrix is needed.
        """
        count, width = grad.shape
        if grad.dtype == self.dtype:
            finish(grad, slice(0, count), grad)
            return grad
        result = grad.view(-1).view(self.dtype)[: count * width].view(count, width)
        for start in range(0, count, ROWS_AT_ONCE):
            r = slice(start, min(count, start + ROWS_AT_ONCE))
            piece = torch.empty_like(result[r])
            finish(grad[r], r, piece)
            result[r] = piece
        return result


def _at_partner(values: Tensor, partner: Tensor | None) -> Tensor:
    return values if partner is None else values[partner.clamp_min(0)]
