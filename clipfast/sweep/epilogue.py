"""What is left after the tiles, in O(N D): the positives' part, the normalisation's Jacobian, the scale's gradient."""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import torch
from torch import Tensor

from clipfast.sweep.features import Features
from clipfast.sweep.pairs import Pairs, at
from clipfast.sweep.row_operations import RowFinish, RowOperations

FINISHED_ROWS_AT_ONCE = 1024  # bounds the temporaries where rows are scattered or narrowed


class Gradients(NamedTuple):
    """Of the rows (M, D), the columns (N, D) and the scale (0-d float64); None where not wanted."""

    rows: Tensor | None
    cols: Tensor | None
    scale: Tensor | None


def positive_logits(pairs: Pairs, operations: RowOperations) -> Tensor:
    """Each row's positive logit (M,), accumulated in float64; 0 where the row has no positive."""
    partner = pairs.matching.col_of_row
    z = operations.paired_dots(pairs.rows.x, pairs.cols.x, partner) * pairs.row_scale
    return z if pairs.cols.inverse_norm is None else z * at(pairs.cols.inverse_norm, partner)


def with_norms(pull: Tensor, pairs: Pairs) -> Tensor:
    """``positive_pull`` (M,): ``pull_i a_i b_t(i)``, where ``pull`` is minus the loss's derivative by the positives' logits."""
    if pairs.rows.inverse_norm is None or pairs.cols.inverse_norm is None:
        return pull
    return pull * pairs.rows.inverse_norm * at(pairs.cols.inverse_norm, pairs.matching.col_of_row)


class Epilogue:
    """Turns the accumulated ``W y`` and ``W^T x`` into gradients of the features x and y, in ``dtype``.

    ``pull`` (M,), the inverse norms included, is read when a strip of rows or all columns are finished, and may be filled in
    until then.
    ``alpha`` (0-d) multiplies the accumulators.
    """

    def __init__(self, pairs: Pairs, operations: RowOperations, pull: Tensor, alpha: Tensor, dtype: torch.dtype) -> None:
        self.pairs, self.operations, self.pull, self.alpha, self.dtype = pairs, operations, pull, alpha, dtype
        # Added up at once: small pieces kept for each strip would pin the heap between the tiles' temporaries.
        self.row_dots = alpha.new_zeros(())
        self.col_dots = alpha.new_zeros(())

    def rows(self, grad: Tensor, r: slice, out: Tensor) -> None:
        """Finish rows ``r`` of the gradient from their accumulator ``grad`` into ``out``, which may be the same."""
        pairs = self.pairs
        self.row_dots += self._finish(grad, r, (pairs.rows, pairs.cols), pairs.matching.col_of_row, self.pull, out).sum()

    def whole_rows(self, grad: Tensor) -> Tensor:
        """All rows that are complete only at the end."""
        return self._narrowed(grad, self.rows)

    def whole_cols(self, grad: Tensor) -> Tensor:
        matching = self.pairs.matching
        if matching.col_of_row is not None and matching.row_of_col is None:
            self._scatter(grad, matching.col_of_row)
            return self._narrowed(grad, self._scattered_cols)
        return self._narrowed(grad, self._cols)

    def scale_gradient(self, rows: bool) -> Tensor:
        """``sum_i <x_i, g_i>`` over the rows or the columns, which give the same, with g as in ``finish_rows`` (0-d float64).

        A symmetric matrix's pairs are met from both sides.
        """
        total = self.row_dots if rows else self.col_dots
        return total / 2 if self.pairs.symmetric else total

    def _cols(self, grad: Tensor, r: slice, out: Tensor) -> None:
        pairs, row_of_col = self.pairs, self.pairs.matching.row_of_col
        pull = at(self.pull, row_of_col)
        self.col_dots += self._finish(grad, r, (pairs.cols, pairs.rows), row_of_col, pull, out).sum()

    def _scattered_cols(self, grad: Tensor, r: slice, out: Tensor) -> None:
        side, one = self.pairs.cols, torch.ones_like(self.alpha)
        projection = None if side.projection is None else side.projection[r]
        finish = RowFinish(side.x[r], None, None, None, projection, one, self.pairs.scale)
        self.col_dots += self.operations.finish_rows(grad, finish, out).sum()

    def _finish(
        self, grad: Tensor, r: slice, sides: tuple[Features, Features], partner: Tensor | None, pull: Tensor, out: Tensor
    ) -> Tensor:
        side, other = sides
        alpha = self.alpha
        if side.outer is not None and other.max_inverse_norm is not None:
            alpha = self.alpha * other.max_inverse_norm * side.outer[r]
        projection = None if side.projection is None else side.projection[r]
        y, mate = (other.x[r], None) if partner is None else (other.x, partner[r])
        finish = RowFinish(side.x[r], y, mate, pull[r], projection, alpha, self.pairs.scale)
        return self.operations.finish_rows(grad, finish, out)

    def _scatter(self, grad: Tensor, col_of_row: Tensor) -> None:
        """Several rows may share a column: add up the positives' part row by row."""
        pairs, alpha = self.pairs, self.alpha
        if pairs.cols.outer is not None and pairs.rows.max_inverse_norm is not None:
            alpha = (alpha * pairs.rows.max_inverse_norm * pairs.cols.outer).unsqueeze(1)
        grad.mul_(alpha.to(grad.dtype))
        for start in range(0, pairs.shape[0], FINISHED_ROWS_AT_ONCE):
            r = slice(start, start + FINISHED_ROWS_AT_ONCE)
            pull = self.pull[r].masked_fill(col_of_row[r] < 0, 0.0).to(grad.dtype)
            grad.index_put_((col_of_row[r].clamp_min(0),), -pull.unsqueeze(1) * pairs.rows.x[r], accumulate=True)

    def _narrowed(self, grad: Tensor, finish: Callable[[Tensor, slice, Tensor], None]) -> Tensor:
        """``finish`` applied to all rows, in place where ``dtype`` is the accumulator's.

        A narrower result is packed into the front of the accumulator's own memory, piece by piece in ascending order:
        what is overwritten has been read before, and no second matrix is needed.
        """
        count, width = grad.shape
        if grad.dtype == self.dtype:
            finish(grad, slice(0, count), grad)
            return grad
        result = grad.view(-1).view(self.dtype)[: count * width].view(count, width)
        for start in range(0, count, FINISHED_ROWS_AT_ONCE):
            r = slice(start, min(count, start + FINISHED_ROWS_AT_ONCE))
            piece = torch.empty_like(result[r])
            finish(grad[r], r, piece)
            result[r] = piece
        return result
