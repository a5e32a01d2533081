"""What is left of a gradient after the tiles: the positive's part, the normalisation's Jacobian, scale and cast."""

import torch
import triton
import triton.language as tl

from clipfast.kernels.rows import row_blocks


@triton.jit
def _pulled(grad, x, y, coef, alpha, i, mate, j, mask, paired, width, x_stride, y_stride):
    """Columns ``j`` of ``alpha * grad - coef * y[partner]`` and of ``x``, float32."""
    at = i.to(tl.int64)[:, None]
    g = tl.load(grad + at * width + j[None, :], mask=mask, other=0.0) * alpha[:, None]
    if y is not None:
        own = tl.load(y + mate[:, None] * y_stride + j[None, :], mask=mask & paired[:, None], other=0.0)
        g -= coef[:, None] * own.to(tl.float32)
    return g, tl.load(x + at * x_stride + j[None, :], mask=mask, other=0.0).to(tl.float32)


@triton.jit(do_not_specialize=["count"])
def finish_rows_kernel(
    grad, x, y, partner, coef, projection, alpha, alpha_stride, scale, out, dots, count, width, x_stride, y_stride,
    B: tl.constexpr, BK: tl.constexpr,
):  # fmt: skip
    """Replaces, the dot products in float64 and the rest in float32; ``out`` may be ``grad``::

    g = alpha * grad - coef[:, None] * y[partner]
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
        pull = tl.load(coef + i, mask=paired, other=0.0).to(tl.float32)
    factor, by = tl.load(alpha + i * alpha_stride, mask=inside, other=0.0).to(tl.float32), tl.load(scale)
    total = tl.zeros((B,), tl.float64)
    for k in range(0, width, BK):
        j = k + tl.arange(0, BK)
        mask = inside[:, None] & (j < width)[None, :]
        g, own = _pulled(grad, x, y, pull, factor, i, mate, j, mask, paired, width, x_stride, y_stride)
        total += tl.sum(g.to(tl.float64) * own.to(tl.float64), 1)
    tl.store(dots + i, total, mask=inside)
    along = tl.zeros((B,), tl.float32)
    if projection is not None:
        along = (tl.load(projection + i, mask=inside, other=0.0) * total * by).to(tl.float32)
    for k in range(0, width, BK):
        j = k + tl.arange(0, BK)
        mask = inside[:, None] & (j < width)[None, :]
        g, own = _pulled(grad, x, y, pull, factor, i, mate, j, mask, paired, width, x_stride, y_stride)
        g = by.to(tl.float32) * g - along[:, None] * own
        tl.store(out + i.to(tl.int64)[:, None] * width + j[None, :], g.to(out.dtype.element_ty), mask=mask)


def finish_rows(
    grad: torch.Tensor, x: torch.Tensor, y: torch.Tensor | None, partner: torch.Tensor | None, coef: torch.Tensor | None,
    projection: torch.Tensor | None, alpha: torch.Tensor, scale: torch.Tensor, out: torch.Tensor,
) -> torch.Tensor:  # fmt: skip
    """The dot products (R,) float64; ``grad`` (R, D) float32 and ``out`` (R, D) contiguous, ``alpha`` 0-d or (R,)
    and ``scale`` 0-d float64."""
    dots = torch.empty(x.shape[0], dtype=torch.float64, device=x.device)
    grid, blocks = row_blocks(x)
    y_stride = 0 if y is None else y.stride(0)
    finish_rows_kernel[grid](
        grad, x, y, partner, coef, projection, alpha, alpha.dim(), scale, out, dots, *x.shape, x.stride(0), y_stride, **blocks
    )
    return dots
