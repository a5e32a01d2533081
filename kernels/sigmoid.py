"""The sigmoid loss on one tile: products, losses and, where gradients are wanted, weights, in one kernel."""

import torch
import triton
import triton.language as tl

from clipfast.kernels.block_sizes import Block
from clipfast.kernels.launch_records import Inner, Scores
from clipfast.kernels.tile_functions import block_of_program, cleared, dots, logits, vector
from clipfast.kernels.tile_launch import launch_tile


@triton.jit
def log1p_of_unit(e):
    """log(1 + e) for e in [0, 1], with a relative error below 2e-7.

    A small loss is a sum of small terms, and 1 + e would round them away before the logarithm.
    """
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
    rows, cols, row_scale, col_inverse_norm, excluded, bias, upstream, row_inner, col_inner, row_loss, row_sigmoid_sum, out,
    out_stride, m, n, width, row_stride, col_stride, first_col, EXCLUDED: tl.constexpr, TMA: tl.constexpr,
    PRECISION: tl.constexpr, SPLIT: tl.constexpr, BM: tl.constexpr, BN: tl.constexpr, BK: tl.constexpr, GROUP: tl.constexpr,
):  # fmt: skip
    """Replaces, with partial sums over each block of columns, and the last two only where ``out`` is given::

    z = row_scale[:, None] * (rows @ cols.T) * col_inverse_norm + bias
    z[excluded pairs] = -inf
    row_loss, row_sigmoid_sum = F.softplus(z).sum(1), z.sigmoid().sum(1)
    out = (z.sigmoid() * (upstream * row_inner)[:, None] * col_inner).to(rows.dtype)
    """
    block_m, block_n = block_of_program(m, n, BM, BN, GROUP)
    row0, col0 = block_m * BM, block_n * BN
    acc = dots(rows, cols, row0, col0, m, n, width, row_stride, col_stride, BM, BN, BK, TMA, PRECISION)
    z = logits(acc, row_scale, col_inverse_norm, tl.load(bias).to(tl.float32), row0, col0, m, n, BM, BN, SPLIT)
    z = cleared(z, float("-inf"), excluded, row0, col0, first_col, m, n, BM, BN, EXCLUDED)
    e = tl.exp2(-tl.abs(z) * 1.4426950408889634)
    i, j = row0 + tl.arange(0, BM), col0 + tl.arange(0, BN)
    at_row = block_n.to(tl.int64) * m + i
    # Not tl.maximum, which would turn NaN into 0.
    tl.store(row_loss + at_row, tl.sum(tl.where(z < 0, 0.0, z) + log1p_of_unit(e), 1), mask=i < m)
    if out is not None:
        p = tl.where(z < 0, e, 1.0) / (1.0 + e)
        tl.store(row_sigmoid_sum + at_row, tl.sum(p, 1), mask=i < m)
        w = p * (vector(upstream, row0, m, BM) * vector(row_inner, row0, m, BM))[:, None]
        w = w * vector(col_inner, col0, n, BN)[None, :]
        at = out + i.to(tl.int64)[:, None] * out_stride + j[None, :]
        tl.store(at, w.to(out.dtype.element_ty), mask=(i < m)[:, None] & (j < n)[None, :])


def sigmoid(
    scores: Scores, bias: torch.Tensor, upstream: torch.Tensor | None, inner: Inner, row_loss: torch.Tensor,
    row_sigmoid_sum: torch.Tensor | None, out: torch.Tensor | None, block: Block,
) -> None:  # fmt: skip
    """``bias`` 0-d float64; ``upstream`` (m,) float32, None for 1.

    Written: ``row_loss`` and ``row_sigmoid_sum`` (blocks of columns, m) float32, and ``out`` (m, n) in the features' dtype;
    the last two are both given or both None.
    """
    stride = 0 if out is None else out.stride(0)
    launch_tile(sigmoid_kernel, scores, (bias, upstream, *inner, row_loss, row_sigmoid_sum, out, stride), block)
