"""The range guard's slow path: each row's log-sum-exp with a maximum of its own, in float64, where one window is not enough.

The kernels look at a flag on the device and return at once where it says that the fast path's sums are right, so that
nothing on the host has to wait for it.
"""

import torch
import triton
import triton.language as tl

SIDE = 16  # of a block in all three dimensions: its products stay in registers


@triton.jit
def exact_logits(
    rows, cols, row_factor, col_factor, excluded, i, j, m, n, first_col, width, row_stride, col_stride,
    EXCLUDED: tl.constexpr, BK: tl.constexpr, BM: tl.constexpr, BN: tl.constexpr,
):  # fmt: skip
    """Float64 logits of rows ``i`` and columns ``j``, -inf where excluded or outside."""
    acc = tl.zeros((BM, BN), tl.float64)
    for k in range(0, width, BK):
        d = k + tl.arange(0, BK)
        a = tl.load(
            rows + i.to(tl.int64)[:, None] * row_stride + d[None, :], mask=(i < m)[:, None] & (d < width)[None, :], other=0.0
        )
        b = tl.load(
            cols + j.to(tl.int64)[:, None] * col_stride + d[None, :], mask=(j < n)[:, None] & (d < width)[None, :], other=0.0
        )
        # Not tl.dot: float64 products of widened operands do not compile on every architecture, and this path is rare.
        acc += tl.sum(a.to(tl.float32).to(tl.float64)[:, None, :] * b.to(tl.float32)[None, :, :], 2)
    z = acc * tl.load(row_factor + i, mask=i < m, other=0.0)[:, None]
    if col_factor is not None:
        z = z * tl.load(col_factor + j, mask=j < n, other=0.0)[None, :]
    wanted = (i < m)[:, None] & (j < n)[None, :]
    for e in tl.static_range(EXCLUDED):
        column = tl.load(excluded + i.to(tl.int64) * EXCLUDED + e, mask=i < m, other=-1) - first_col
        wanted = wanted & (column[:, None] != j[None, :])
    return tl.where(wanted, z, float("-inf"))


@triton.jit(do_not_specialize=["m", "n"])
def exact_lse_kernel(
    rows, cols, row_factor, col_factor, excluded, lost, lse, best, m, n, width, row_stride, col_stride,
    EXCLUDED: tl.constexpr, BM: tl.constexpr, BN: tl.constexpr, BK: tl.constexpr,
):  # fmt: skip
    """Replaces, where ``lost`` is true; ``lse`` and ``best`` stay as they are where it is not::

    z = row_factor[:, None] * (rows.double() @ cols.double().T) * col_factor
    z[excluded pairs] = -inf
    lse, best = z.logsumexp(1), z.amax(1)
    """
    if tl.load(lost) == 0:
        return
    i = tl.program_id(0) * BM + tl.arange(0, BM)
    top = tl.full((BM,), float("-inf"), tl.float64)
    total = tl.zeros((BM,), tl.float64)
    for col0 in range(0, n, BN):
        j = col0 + tl.arange(0, BN)
        z = exact_logits(
            rows, cols, row_factor, col_factor, excluded, i, j, m, n, 0, width, row_stride, col_stride, EXCLUDED, BK, BM, BN
        )
        higher = tl.maximum(top, tl.max(z, 1))
        finite = tl.where(higher == float("-inf"), 0.0, higher)
        total = total * tl.exp(tl.where(top == float("-inf"), finite, top) - finite) + tl.sum(tl.exp(z - finite[:, None]), 1)
        top = higher
    tl.store(lse + i, tl.where(top == float("-inf"), top, tl.log(total) + top), mask=i < m)
    if best is not None:
        tl.store(best + i, top, mask=i < m)


def exact_lse(
    rows: torch.Tensor, cols: torch.Tensor, row_factor: torch.Tensor, col_factor: torch.Tensor | None, excluded: torch.Tensor,
    lost: torch.Tensor, lse: torch.Tensor, best: torch.Tensor | None,
) -> None:  # fmt: skip
    """``row_factor``, ``col_factor``, ``lse`` and ``best`` float64; ``lost`` 0-d bool; features contiguous in the width."""
    m, n = rows.shape[0], cols.shape[0]
    exact_lse_kernel[(triton.cdiv(m, SIDE),)](
        rows, cols, row_factor, col_factor, excluded, lost, lse, best, m, n, rows.shape[1], rows.stride(0), cols.stride(0),
        EXCLUDED=excluded.shape[1], BM=SIDE, BN=SIDE, BK=SIDE, num_warps=4,
    )  # fmt: skip
