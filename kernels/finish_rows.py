"""The end of a gradient, after the tiles: the positive's part, the normalisation's Jacobian, scale and cast."""

import torch
import triton
import triton.language as tl

from clipfast.kernels.row_launch import row_blocks
from clipfast.sweep.row_operations import RowFinish


@triton.jit
def _with_positive(grad, x, y, positive_pull, alpha, i, mate, j, mask, paired, width, x_stride, y_stride):
    """Columns ``j`` of ``alpha * grad - positive_pull * y[partner]`` and of ``x``, float32."""
    at = i.to(tl.int64)[:, None]
    g = tl.load(grad + at * width + j[None, :], mask=mask, other=0.0) * alpha[:, None]
    if y is not None:
        own = tl.load(y + mate[:, None] * y_stride + j[None, :], mask=mask & paired[:, None], other=0.0)
        g -= positive_pull[:, None] * own.to(tl.float32)
    return g, tl.load(x + at * x_stride + j[None, :], mask=mask, other=0.0).to(tl.float32)


@triton.jit(do_not_specialize=["count"])
def finish_rows_kernel(
    grad, x, y, partner, positive_pull, projection, alpha, alpha_stride, scale, out, dots, count, width, x_stride, y_stride,
    B: tl.constexpr, BK: tl.constexpr,
):  # fmt: skip
    """Replaces, the dot products in float64 and the rest in float32; ``out`` may be ``grad``::

    g = alpha * grad - positive_pull[:, None] * y[partner]
    dots = (x * g).sum(1)
    out = (scale * (g - (projection * dots)[:, None] * x)).to(x.dtype)
    """
    i = tl.program_id(0) * B + tl.arange(0, B)
    inside = i < count
    mate = i.to(tl.int64)
    if partner is not None:
        mate = tl.load(partner + i, mask=inside, other=-1)
    paired = inside & (mate >= 0)
    pull = tl.zeros((B,), tl.float32)
    if y is not None:
        pull = tl.load(positive_pull + i, mask=paired, other=0.0).to(tl.float32)
    by_row, by_all = tl.load(alpha + i * alpha_stride, mask=inside, other=0.0).to(tl.float32), tl.load(scale)
    total = tl.zeros((B,), tl.float64)
    for k in range(0, width, BK):
        j = k + tl.arange(0, BK)
        mask = inside[:, None] & (j < width)[None, :]
        g, own = _with_positive(grad, x, y, pull, by_row, i, mate, j, mask, paired, width, x_stride, y_stride)
        total += tl.sum(g.to(tl.float64) * own.to(tl.float64), 1)
    tl.store(dots + i, total, mask=inside)
    along = tl.zeros((B,), tl.float32)
    if projection is not None:
        along = (tl.load(projection + i, mask=inside, other=0.0) * total * by_all).to(tl.float32)
    for k in range(0, width, BK):
        j = k + tl.arange(0, BK)
        mask = inside[:, None] & (j < width)[None, :]
        g, own = _with_positive(grad, x, y, pull, by_row, i, mate, j, mask, paired, width, x_stride, y_stride)
        g = by_all.to(tl.float32) * g - along[:, None] * own
        tl.store(out + i.to(tl.int64)[:, None] * width + j[None, :], g.to(out.dtype.element_ty), mask=mask)


def finish_rows(grad: torch.Tensor, finish: RowFinish, out: torch.Tensor) -> torch.Tensor:
    """Returns ``dots`` (R,) float64; ``grad`` (R, D) float32 and ``out`` (R, D), both contiguous."""
    x, y, partner, positive_pull, projection, alpha, scale = finish
    dots = torch.empty(x.shape[0], dtype=torch.float64, device=x.device)
    grid, blocks = row_blocks(x)
    y_stride = 0 if y is None else y.stride(0)
    finish_rows_kernel[grid](
        grad, x, y, partner, positive_pull, projection, alpha, alpha.dim(), scale, out, dots, *x.shape, x.stride(0), y_stride,
        **blocks,
    )  # fmt: skip
    return dots
