"""Pass 2 of the softmax losses on one tile: products, exponentials, and their weights in the features' dtype."""

import triton
import triton.language as tl

from clipfast.kernels.block import cleared, dots, logits, place, vector
from clipfast.kernels.launch import launch_tile


@triton.jit(do_not_specialize=["m", "n", "first_col"])
def softmax_weights_kernel(
    rows, cols, row_factor, col_factor, excluded, shift, u, v, row_inner, col_inner, out, out_stride, m, n, width, row_stride,
    col_stride, first_col, EXCLUDED: tl.constexpr, TMA: tl.constexpr, PRECISION: tl.constexpr, SPLIT: tl.constexpr,
    BM: tl.constexpr, BN: tl.constexpr, BK: tl.constexpr, GROUP: tl.constexpr,
):  # fmt: skip
    """Replaces, but for an infinite shift, with which ``exact_weights`` fills the tile instead::

    e = torch.exp2(row_factor[:, None] * (rows @ cols.T) * col_factor - shift)
    e[excluded pairs] = 0
    out = (e * (u[:, None] + v) * row_inner[:, None] * col_inner).to(rows.dtype)
    """
    add = -tl.load(shift).to(tl.float32)
    if add == float("-inf"):
        return
    block_m, block_n = place(m, n, BM, BN, GROUP)
    row0, col0 = block_m * BM, block_n * BN
    acc = dots(rows, cols, row0, col0, m, n, width, row_stride, col_stride, BM, BN, BK, TMA, PRECISION)
    z = logits(acc, row_factor, col_factor, add, row0, col0, m, n, BM, BN, SPLIT)
    w = tl.exp2(z) * (vector(u, row0, m, BM)[:, None] + vector(v, col0, n, BN)[None, :])
    if row_inner is not None:
        w = w * (vector(row_inner, row0, m, BM)[:, None] * vector(col_inner, col0, n, BN)[None, :])
    w = cleared(w, 0.0, excluded, row0, col0, first_col, m, n, BM, BN, EXCLUDED)
    i, j = row0 + tl.arange(0, BM), col0 + tl.arange(0, BN)
    at = out + i.to(tl.int64)[:, None] * out_stride + j[None, :]
    tl.store(at, w.to(out.dtype.element_ty), mask=(i < m)[:, None] & (j < n)[None, :])


def softmax_weights(rows, cols, row_factor, col_factor, row_inner, col_inner, excluded, shift, u, v, first_col, out) -> None:
    """``out`` (m, n), its rows any distance apart; ``u``, ``v`` and the inner factors float32."""
    vectors = (row_factor, col_factor, excluded, shift, u, v, row_inner, col_inner, out, out.stride(0))
    launch_tile(softmax_weights_kernel, rows, cols, vectors, first_col, excluded.shape[1])
