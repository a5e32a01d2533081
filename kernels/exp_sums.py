"""Pass 1 of the softmax losses on one tile: products, exponentials and their sums, nothing else written."""

import triton
import triton.language as tl

from clipfast.kernels.block import cleared, dots, logits, place
from clipfast.kernels.launch import launch_tile


@triton.jit(do_not_specialize=["m", "n", "first_col"])
def exp_sums_kernel(
    rows, cols, row_factor, col_factor, excluded, shift, row_sum, col_sum, row_best, col_best, m, n, width, row_stride,
    col_stride, first_col, EXCLUDED: tl.constexpr, TMA: tl.constexpr, PRECISION: tl.constexpr, SPLIT: tl.constexpr,
    BM: tl.constexpr, BN: tl.constexpr, BK: tl.constexpr, GROUP: tl.constexpr,
):  # fmt: skip
    """Replaces, with partial sums over each block of columns and of rows::

    e = torch.exp2(row_factor[:, None] * (rows @ cols.T) * col_factor - shift)
    e[excluded pairs] = 0
    row_sum, col_sum, row_best, col_best = e.sum(1), e.sum(0), e.amax(1), e.amax(0)
    """
    block_m, block_n = place(m, n, BM, BN, GROUP)
    row0, col0 = block_m * BM, block_n * BN
    acc = dots(rows, cols, row0, col0, m, n, width, row_stride, col_stride, BM, BN, BK, TMA, PRECISION)
    add = -tl.load(shift).to(tl.float32)
    z = logits(acc, row_factor, col_factor, add, row0, col0, m, n, BM, BN, SPLIT)
    e = cleared(tl.exp2(z), 0.0, excluded, row0, col0, first_col, m, n, BM, BN, EXCLUDED)
    i, j = row0 + tl.arange(0, BM), col0 + tl.arange(0, BN)
    at_row, at_col = block_n.to(tl.int64) * m + i, block_m.to(tl.int64) * n + j
    tl.store(row_sum + at_row, tl.sum(e, 1), mask=i < m)
    if row_best is not None:
        tl.store(row_best + at_row, tl.max(e, 1), mask=i < m)
    if col_sum is not None:
        tl.store(col_sum + at_col, tl.sum(e, 0), mask=j < n)
    if col_best is not None:
        tl.store(col_best + at_col, tl.max(e, 0), mask=j < n)


def exp_sums(rows, cols, row_factor, col_factor, excluded, shift, first_col, row_sum, col_sum, row_best, col_best) -> None:
    """``row_sum`` and ``row_best`` (column blocks, m), ``col_sum`` and ``col_best`` (row blocks, n), float32 or None."""
    vectors = (row_factor, col_factor, excluded, shift, row_sum, col_sum, row_best, col_best)
    launch_tile(exp_sums_kernel, rows, cols, vectors, first_col, excluded.shape[1])
