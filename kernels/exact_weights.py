"""The range guard's slow path, pass 2: weights from each line's own log-sum-exp, in float64."""

import torch
import triton
import triton.language as tl

from clipfast.kernels.exact_lse import SIDE, exact_logits
from clipfast.kernels.launch_records import Inner, Scores
from clipfast.sweep.tile_operations import ExactLines


@triton.jit(do_not_specialize=["m", "n", "first_col"])
def exact_weights_kernel(
    rows, cols, row_scale, col_inverse_norm, excluded, shift_log2, row_lse, col_lse, row_upstream, col_upstream, row_inner,
    col_inner, out, out_stride, m, n, width, row_stride, col_stride, first_col, EXCLUDED: tl.constexpr, BM: tl.constexpr,
    BN: tl.constexpr, BK: tl.constexpr,
):  # fmt: skip
    """Replaces, if ``shift_log2`` is infinite; otherwise ``out`` stays as it is::

    z = row_scale[:, None] * (rows.double() @ cols.double().T) * col_inverse_norm
    z[excluded pairs] = -inf
    w = row_upstream[:, None] * (z - row_lse[:, None]).exp() + col_upstream * (z - col_lse).exp()
    out = (w * row_inner[:, None] * col_inner).to(rows.dtype)
    """
    if tl.load(shift_log2) != float("inf"):
        return
    blocks = tl.cdiv(m, BM) * tl.cdiv(n, BN)
    for block in range(tl.program_id(0), blocks, tl.num_programs(0)):
        i = block // tl.cdiv(n, BN) * BM + tl.arange(0, BM)
        j = block % tl.cdiv(n, BN) * BN + tl.arange(0, BN)
        in_row, in_col = i < m, j < n
        z = exact_logits(
            rows, cols, row_scale, col_inverse_norm, excluded, i, j, m, n, first_col, width, row_stride, col_stride,
            EXCLUDED, BK, BM, BN,
        )  # fmt: skip
        lse = tl.load(row_lse + i, mask=in_row, other=0.0)[:, None]
        w = tl.load(row_upstream + i, mask=in_row, other=0.0)[:, None] * tl.exp(z - lse)
        if col_lse is not None:
            lse = tl.load(col_lse + j, mask=in_col, other=0.0)[None, :]
            w += tl.load(col_upstream + j, mask=in_col, other=0.0)[None, :] * tl.exp(z - lse)
        if row_inner is not None:
            w = w * tl.load(row_inner + i, mask=in_row, other=0.0)[:, None]
            w = w * tl.load(col_inner + j, mask=in_col, other=0.0)[None, :]
        at = out + i.to(tl.int64)[:, None] * out_stride + j[None, :]
        tl.store(at, w.to(tl.float32).to(out.dtype.element_ty), mask=in_row[:, None] & in_col[None, :])


def exact_weights(scores: Scores, shift_log2: torch.Tensor, lines: ExactLines, inner: Inner, out: torch.Tensor) -> None:
    """``shift_log2`` 0-d float64. ``scores`` in natural units, ``col_inverse_norm`` float64, each row of features contiguous.

    ``out`` (m, n) in the features' dtype, its rows any distance apart.
    """
    rows, cols, row_scale, col_inverse_norm, excluded, first_col = scores
    m, n = out.shape
    programs = min(1024, triton.cdiv(m, SIDE) * triton.cdiv(n, SIDE))  # few, since they seldom have anything to do
    exact_weights_kernel[(programs,)](
        rows, cols, row_scale, col_inverse_norm, excluded, shift_log2, lines.row_lse, lines.col_lse, lines.row_upstream,
        lines.col_upstream, *inner, out, out.stride(0), m, n, rows.shape[1], rows.stride(0), cols.stride(0), first_col,
        EXCLUDED=excluded.shape[1], BM=SIDE, BN=SIDE, BK=SIDE, num_warps=4,
    )  # fmt: skip
