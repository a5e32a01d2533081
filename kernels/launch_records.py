"""What the launchers take: tensors that belong together, already cut to the tile.

The records of whole lines and rows are the sweep's own (``RowFinish``, ``ExactLines``). The names are those of csrc/*/tile.h.

A tile is ``m`` rows against ``n`` columns of one matrix of logits; a line is a row or a column that has a softmax of its own.
"""

from __future__ import annotations

from typing import NamedTuple

from torch import Tensor


class Scores(NamedTuple):
    """A tile's logits ``z_ij = row_scale_i * col_inverse_norm_j * <rows_i, cols_j>``, and the pairs that do not count.

    ``row_scale`` is the logits' scale times the row's inverse norm, in natural units. For the two kernels that take
    exponentials of base 2, ``exp_sums`` and ``softmax_weights``, it is that divided by log 2 (``row_scale_log2``).
    """

    rows: Tensor  # (m, D)
    cols: Tensor  # (n, D), same dtype
    row_scale: Tensor  # (m,) float64
    col_inverse_norm: Tensor | None  # (n,) float32, float64 for the exact kernels; None for 1
    excluded: Tensor  # (m, 1 or 2) int64: columns of the whole matrix that are no negatives of the row, -1 for none
    first_col: int  # the tile's first column in the whole matrix


class Inner(NamedTuple):
    """The part of the inverse norms that enters the stored weights; both None for 1."""

    rows: Tensor | None  # row_inner (m,) float32
    cols: Tensor | None  # col_inner (n,) float32
