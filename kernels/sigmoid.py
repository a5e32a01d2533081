"""The sigmoid loss on one tile: products, losses and, where gradients are wanted, weights, in one kernel."""

import triton
import triton.language as tl

from clipfast.kernels.block import cleared, dots, logits, place, vector
from clipfast.kernels.launch import launch_tile


@triton.jit
def log1p_of_unit(e):
    """log(1 + e) for e in [0, 1] to 1.5e-7 of its value: a small loss is a sum of terms that log(1 + e) would round away."""
    p = tl.full(e.shape, 0.005253457796, tl.float32)
    p = p * e - 0.029588507388
    p = p * e + 0.078361668011
    p = p * e - 0.136747697048
    p = p * e + 0.191114310802
    p = p * e - 0.248443698924
    p = p * e + 0.333192713425
    p = p * e - 0.499995015168
    p = p * e + 0.999999970541
    return p * e


@triton.jit(do_not_specialize=["m", "n", "first_col"])
def sigmoid_kernel(
    rows, cols, row_factor, col_factor, excluded, bias, row_weight, row_inner, col_inner, row_loss, row_weight_sum, out,
    out_stride, m, n, width, row_stride, col_stride, first_col, EXCLUDED: tl.constexpr, TMA: tl.constexpr,
    PRECISION: tl.constexpr, SPLIT: tl.constexpr, BM: tl.constexpr, BN: tl.constexpr, BK: tl.constexpr, GROUP: tl.constexpr,
):  # fmt: skip
    """Replaces, with partial sums over each block of columns, and the last two only where ``out`` is given::

    z = row_factor[:, None] * (rows @ cols.T) * col_factor + bias
    z[excluded pairs] = -inf
    row_loss, row_weight_sum = F.softplus(z).sum(1), z.sigmoid().sum(1)
    out = (z.sigmoid() * (row_weight * row_inner)[:, None] * col_inner).to(rows.dtype)
    """
    block_m, block_n = place(m, n, BM, BN, GROUP)
    row0, col0 = block_m * BM, block_n * BN
    acc = dots(rows, cols, row0, col0, m, n, width, row_stride, col_stride, BM, BN, BK, TMA, PRECISION)
    z = logits(acc, row_factor, col_factor, tl.load(bias).to(tl.float32), row0, col0, m, n, BM, BN, SPLIT)
    z = cleared(z, float("-inf"), excluded, row0, col0, first_col, m, n, BM, BN, EXCLUDED)
    e = tl.exp2(-tl.abs(z) * 1.4426950408889634)
    i, j = row0 + tl.arange(0, BM), col0 + tl.arange(0, BN)
    at_row = block_n.to(tl.int64) * m + i
    # Not tl.maximum, which would turn NaN into 0.
    tl.store(row_loss + at_row, tl.sum(tl.where(z < 0, 0.0, z) + log1p_of_unit(e), 1), mask=i < m)
    if out is not None:
        p = tl.where(z < 0, e, 1.0) / (1.0 + e)
        tl.store(row_weight_sum + at_row, tl.sum(p, 1), mask=i < m)
        w = p * (vector(row_weight, row0, m, BM) * vector(row_inner, row0, m, BM))[:, None]
        w = w * vector(col_inner, col0, n, BN)[None, :]
        at = out + i.to(tl.int64)[:, None] * out_stride + j[None, :]
        tl.store(at, w.to(out.dtype.element_ty), mask=(i < m)[:, None] & (j < n)[None, :])


def sigmoid(
    rows, cols, row_factor, col_factor, row_inner, col_inner, excluded, bias, row_weight, first_col, row_loss,
    row_weight_sum, out,
) -> None:  # fmt: skip
    """``row_loss`` and ``row_weight_sum`` (column blocks, m) float32; ``out`` (m, n); the last two both or neither."""
    stride = 0 if out is None else out.stride(0)
    vectors = (row_factor, col_factor, excluded, bias, row_weight, row_inner, col_inner, row_loss, row_weight_sum, out, stride)
    launch_tile(sigmoid_kernel, rows, cols, vectors, first_col, excluded.shape[1])
