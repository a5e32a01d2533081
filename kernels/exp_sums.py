"""Pass 1 of the softmax losses on one tile: products, exponentials and their sums, nothing else written."""

import torch
import triton
import triton.language as tl

from clipfast.kernels.block_sizes import Block
from clipfast.kernels.launch_records import Scores
from clipfast.kernels.tile_functions import block_of_program, cleared, dots, logits
from clipfast.kernels.tile_launch import launch_tile


@triton.jit(do_not_specialize=["m", "n", "first_col"])
def exp_sums_kernel(
    rows, cols, row_scale_log2, col_inverse_norm, excluded, shift_log2, row_sum, col_sum, row_max, col_max, m, n, width,
    row_stride, col_stride, first_col, EXCLUDED: tl.constexpr, TMA: tl.constexpr, PRECISION: tl.constexpr,
    SPLIT: tl.constexpr, BM: tl.constexpr, BN: tl.constexpr, BK: tl.constexpr, GROUP: tl.constexpr,
):  # fmt: skip
    """Replaces, with partial sums over each block of columns and of rows::

    z_log2 = row_scale_log2[:, None] * (rows @ cols.T) * col_inverse_norm
    e = torch.exp2(z_log2 - shift_log2)
    e[excluded pairs] = 0
    row_sum, col_sum, row_max, col_max = e.sum(1), e.sum(0), e.amax(1), e.amax(0)
    """
    block_m, block_n = block_of_program(m, n, BM, BN, GROUP)
    row0, col0 = block_m * BM, block_n * BN
    acc = dots(rows, cols, row0, col0, m, n, width, row_stride, col_stride, BM, BN, BK, TMA, PRECISION)
    add = -tl.load(shift_log2).to(tl.float32)
    z_log2 = logits(acc, row_scale_log2, col_inverse_norm, add, row0, col0, m, n, BM, BN, SPLIT)
    e = cleared(tl.exp2(z_log2), 0.0, excluded, row0, col0, first_col, m, n, BM, BN, EXCLUDED)
    i, j = row0 + tl.arange(0, BM), col0 + tl.arange(0, BN)
    at_row, at_col = block_n.to(tl.int64) * m + i, block_m.to(tl.int64) * n + j
    tl.store(row_sum + at_row, tl.sum(e, 1), mask=i < m)
    if row_max is not None:
        tl.store(row_max + at_row, tl.max(e, 1), mask=i < m)
    if col_sum is not None:
        tl.store(col_sum + at_col, tl.sum(e, 0), mask=j < n)
    if col_max is not None:
        tl.store(col_max + at_col, tl.max(e, 0), mask=j < n)


def exp_sums(
    scores: Scores, shift_log2: torch.Tensor, row_sum: torch.Tensor, col_sum: torch.Tensor | None,
    row_max: torch.Tensor | None, col_max: torch.Tensor | None, block: Block,
) -> None:  # fmt: skip
    """``scores.row_scale`` in base 2; ``shift_log2`` 0-d float64, a whole number.

    Written, in float32, one entry for each block: ``row_sum`` and ``row_max`` (blocks of columns, m), ``col_sum`` and
    ``col_max`` (blocks of rows, n).
    """
    launch_tile(exp_sums_kernel, scores, (shift_log2, row_sum, col_sum, row_max, col_max), block)
