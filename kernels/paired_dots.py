"""Each row's dot product with its partner: the positives' logits, in float64 because a converged loss hangs on them."""

import torch
import triton
import triton.language as tl

from clipfast.kernels.row_launch import row_blocks


@triton.jit(do_not_specialize=["count"])
def paired_dots_kernel(x, y, partner, dots, count, width, x_stride, y_stride, B: tl.constexpr, BK: tl.constexpr):
    """Replaces ``(x.double() * y[partner].double()).sum(1)``, 0 where the partner is -1; ``partner`` None: the same row."""
    i = tl.program_id(0) * B + tl.arange(0, B)
    inside = i < count
    mate = i.to(tl.int64)
    if partner is not None:
        mate = tl.load(partner + i, mask=inside, other=-1)
    paired = inside & (mate >= 0)
    total = tl.zeros((B,), tl.float64)
    for k in range(0, width, BK):
        j = k + tl.arange(0, BK)
        mask = paired[:, None] & (j < width)[None, :]
        a = tl.load(x + i.to(tl.int64)[:, None] * x_stride + j[None, :], mask=mask, other=0.0)
        b = tl.load(y + mate[:, None] * y_stride + j[None, :], mask=mask, other=0.0)
        total += tl.sum(a.to(tl.float32).to(tl.float64) * b.to(tl.float32), 1)
    tl.store(dots + i, total, mask=inside)


def paired_dots(x: torch.Tensor, y: torch.Tensor, partner: torch.Tensor | None) -> torch.Tensor:
    """(R,) float64 of ``x`` (R, D), ``y`` (S, D) and ``partner`` (R,) int64."""
    dots = torch.empty(x.shape[0], dtype=torch.float64, device=x.device)
    grid, blocks = row_blocks(x)
    paired_dots_kernel[grid](x, y, partner, dots, *x.shape, x.stride(0), y.stride(0), **blocks)
    return dots
