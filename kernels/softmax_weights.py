"""Pass 2 of the softmax losses on one tile: products, exponentials, and their weights in the features' dtype."""

import torch
import triton
import triton.language as tl

from clipfast.kernels.block_sizes import Block
from clipfast.kernels.launch_records import Inner, Scores
from clipfast.kernels.tile_functions import block_of_program, cleared, dots, logits, vector
from clipfast.kernels.tile_launch import launch_tile


@triton.jit(do_not_specialize=["m", "n", "first_col"])
def softmax_weights_kernel(
    rows, cols, row_scale_log2, col_inverse_norm, excluded, shift_log2, u, v, row_inner, col_inner, out, out_stride, m, n,
    width, row_stride, col_stride, first_col, EXCLUDED: tl.constexpr, TMA: tl.constexpr, PRECISION: tl.constexpr,
    SPLIT: tl.constexpr, BM: tl.constexpr, BN: tl.constexpr, BK: tl.constexpr, GROUP: tl.constexpr,
):  # fmt: skip
    """Replaces, unless the shift is infinite (``exact_weights`` then fills the tile instead)::

    z_log2 = row_scale_log2[:, None] * (rows @ cols.T) * col_inverse_norm
    e = torch.exp2(z_log2 - shift_log2)
    e[excluded pairs] = 0
    out = (e * (u[:, None] + v) * row_inner[:, None] * col_inner).to(rows.dtype)
    """
    add = -tl.load(shift_log2).to(tl.float32)
    if add == float("-inf"):
        return
    block_m, block_n = block_of_program(m, n, BM, BN, GROUP)
    row0, col0 = block_m * BM, block_n * BN
    acc = dots(rows, cols, row0, col0, m, n, width, row_stride, col_stride, BM, BN, BK, TMA, PRECISION)
    z_log2 = logits(acc, row_scale_log2, col_inverse_norm, add, row0, col0, m, n, BM, BN, SPLIT)
    w = tl.exp2(z_log2) * (vector(u, row0, m, BM)[:, None] + vector(v, col0, n, BN)[None, :])
    if row_inner is not None:
        w = w * (vector(row_inner, row0, m, BM)[:, None] * vector(col_inner, col0, n, BN)[None, :])
    w = cleared(w, 0.0, excluded, row0, col0, first_col, m, n, BM, BN, EXCLUDED)
    i, j = row0 + tl.arange(0, BM), col0 + tl.arange(0, BN)
    at = out + i.to(tl.int64)[:, None] * out_stride + j[None, :]
    tl.store(at, w.to(out.dtype.element_ty), mask=(i < m)[:, None] & (j < n)[None, :])


def softmax_weights(
    scores: Scores, shift_log2: torch.Tensor, u: torch.Tensor, v: torch.Tensor, inner: Inner, out: torch.Tensor, block: Block
) -> None:
    """``scores.row_scale`` in base 2; ``shift_log2`` 0-d float64; ``u`` (m,) and ``v`` (n,) float32.

    ``out`` (m, n) in the features' dtype, its rows any distance apart.
    """
    launch_tile(softmax_weights_kernel, scores, (shift_log2, u, v, *inner, out, out.stride(0)), block)
