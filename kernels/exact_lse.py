"""The range guard's slow path, pass 1: each row's log-sum-exp, in float64 and with a maximum of the row's own.

For batches whose logits no single float32 window holds. The kernel is launched each time: it looks at a flag on the device
and returns at once where the fast path's sums are right, so that nothing on the host has to wait for that flag.
"""

import torch
import triton
import triton.language as tl

from clipfast.kernels.launch_records import Scores

SIDE = 16  # of a block in all three dimensions: its products stay in registers


@triton.jit
def exact_logits(
    rows, cols, row_scale, col_inverse_norm, excluded, i, j, m, n, first_col, width, row_stride, col_stride,
    EXCLUDED: tl.constexpr, BK: tl.constexpr, BM: tl.constexpr, BN: tl.constexpr,
):  # fmt: skip
    """Float64 logits of rows ``i`` and columns ``j``, -inf where excluded or outside."""
    acc = tl.zeros((BM, BN), tl.float64)
    in_row, in_col = i < m, j < n
    for k in range(0, width, BK):
        d = k + tl.arange(0, BK)
        in_width = (d < width)[None, :]
        a = tl.load(rows + i.to(tl.int64)[:, None] * row_stride + d[None, :], mask=in_row[:, None] & in_width, other=0.0)
        b = tl.load(cols + j.to(tl.int64)[:, None] * col_stride + d[None, :], mask=in_col[:, None] & in_width, other=0.0)
        # Not tl.dot: float64 products of widened operands do not compile on every architecture, and this path is rare.
        acc += tl.sum(a.to(tl.float32).to(tl.float64)[:, None, :] * b.to(tl.float32)[None, :, :], 2)
    z = acc * tl.load(row_scale + i, mask=in_row, other=0.0)[:, None]
    if col_inverse_norm is not None:
        z = z * tl.load(col_inverse_norm + j, mask=in_col, other=0.0)[None, :]
    wanted = in_row[:, None] & in_col[None, :]
    for e in tl.static_range(EXCLUDED):
        column = tl.load(excluded + i.to(tl.int64) * EXCLUDED + e, mask=in_row, other=-1) - first_col
        wanted = wanted & (column[:, None] != j[None, :])
    return tl.where(wanted, z, float("-inf"))


@triton.jit(do_not_specialize=["m", "n", "first_col"])
def exact_lse_kernel(
    rows, cols, row_scale, col_inverse_norm, excluded, underflowed, lse, row_max, m, n, width, row_stride, col_stride,
    first_col, EXCLUDED: tl.constexpr, BM: tl.constexpr, BN: tl.constexpr, BK: tl.constexpr,
):  # fmt: skip
    """Replaces, if ``underflowed``; otherwise ``lse`` and ``row_max`` stay as they are::

    z = row_scale[:, None] * (rows.double() @ cols.double().T) * col_inverse_norm
    z[excluded pairs] = -inf
    lse, row_max = z.logsumexp(1), z.amax(1)
    """
    if tl.load(underflowed) == 0:
        return
    i = tl.program_id(0) * BM + tl.arange(0, BM)
    top = tl.full((BM,), float("-inf"), tl.float64)
    total = tl.zeros((BM,), tl.float64)
    for col0 in range(0, n, BN):
        j = col0 + tl.arange(0, BN)
        z = exact_logits(
            rows, cols, row_scale, col_inverse_norm, excluded, i, j, m, n, first_col, width, row_stride, col_stride,
            EXCLUDED, BK, BM, BN,
        )  # fmt: skip
        higher = tl.maximum(top, tl.max(z, 1))
        finite = tl.where(higher == float("-inf"), 0.0, higher)
        total = total * tl.exp(tl.where(top == float("-inf"), finite, top) - finite) + tl.sum(tl.exp(z - finite[:, None]), 1)
        top = higher
    tl.store(lse + i, tl.where(top == float("-inf"), top, tl.log(total) + top), mask=i < m)
    if row_max is not None:
        tl.store(row_max + i, top, mask=i < m)


def exact_lse(scores: Scores, underflowed: torch.Tensor, lse: torch.Tensor, row_max: torch.Tensor | None) -> None:
    """``underflowed`` 0-d bool. ``scores`` in natural units, ``col_inverse_norm`` float64, each row of features contiguous.

    Written, in float64 and natural units: ``lse`` (m,) and ``row_max`` (m,), the largest logit.
    """
    rows, cols, row_scale, col_inverse_norm, excluded, first_col = scores
    m, n = rows.shape[0], cols.shape[0]
    exact_lse_kernel[(triton.cdiv(m, SIDE),)](
        rows, cols, row_scale, col_inverse_norm, excluded, underflowed, lse, row_max, m, n, rows.shape[1], rows.stride(0),
        cols.stride(0), first_col, EXCLUDED=excluded.shape[1], BM=SIDE, BN=SIDE, BK=SIDE, num_warps=4,
    )  # fmt: skip
