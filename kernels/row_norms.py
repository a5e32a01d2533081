"""Norms of the features' rows, and what normalises them, in one pass."""

import torch
import triton
import triton.language as tl

from clipfast.kernels.row_launch import row_blocks


@triton.jit(do_not_specialize=["count"])
def row_norms_kernel(x, norm, inverse_norm, projection, count, width, stride, eps, B: tl.constexpr, BK: tl.constexpr):
    """Replaces, in float64::

    norm = x.double().norm(dim=1)
    inverse_norm = 1 / norm.clamp_min(eps)
    projection = inverse_norm.square() * (norm > eps)

    ``F.normalize`` divides by the clamped norm, which is a constant where it is clamped: its derivative is 0 there.
    """
    i = tl.program_id(0) * B + tl.arange(0, B)
    inside = i < count
    total = tl.zeros((B,), tl.float64)
    for k in range(0, width, BK):
        j = k + tl.arange(0, BK)
        mask = inside[:, None] & (j < width)[None, :]
        v = tl.load(x + i.to(tl.int64)[:, None] * stride + j[None, :], mask=mask, other=0.0).to(tl.float32).to(tl.float64)
        total += tl.sum(v * v, 1)
    length = tl.sqrt(total)
    reciprocal = 1.0 / tl.where(length < eps, eps, length)  # NaN stays NaN
    tl.store(norm + i, length, mask=inside)
    tl.store(inverse_norm + i, reciprocal, mask=inside)
    tl.store(projection + i, tl.where(length > eps, reciprocal * reciprocal, 0.0), mask=inside)


def row_norms(x: torch.Tensor, eps: float) -> torch.Tensor:
    """(3, R) float64 of ``x`` (R, D): norms, inverse norms, factors of the Jacobian's projection."""
    result = torch.empty(3, x.shape[0], dtype=torch.float64, device=x.device)
    grid, blocks = row_blocks(x)
    row_norms_kernel[grid](x, *result.unbind(), x.shape[0], x.shape[1], x.stride(0), eps, **blocks)
    return result
