"""A tile's two accumulating products on an accelerator: float32 sums of half-precision factors."""

from __future__ import annotations

from functools import cache

import torch
from torch import Tensor

from clipfast.compute.gemm import TorchGemm


class DeviceGemm(TorchGemm):
    """cuBLAS (or what torch has instead) with float32 results, added in place where this torch can."""

    name = "torch.addmm, float32 results"

    def add_rows(self, grad: Tensor, w: Tensor, b: Tensor) -> None:
        _ADD[_way(grad.device.type, w.dtype)](grad, w, b)

    def add_cols(self, grad: Tensor, w: Tensor, a_transposed: Tensor) -> None:
        self.add_rows(grad, w.t(), a_transposed.t())


def _in_place(grad: Tensor, w: Tensor, b: Tensor) -> None:
    torch.addmm(grad, w, b, out_dtype=grad.dtype, out=grad)


def _added(grad: Tensor, w: Tensor, b: Tensor) -> None:
    grad.add_(torch.mm(w, b, out_dtype=grad.dtype))


def _widened(grad: Tensor, w: Tensor, b: Tensor) -> None:
    grad.addmm_(w.to(grad.dtype), b.to(grad.dtype))


_ADD = {"in place": _in_place, "added": _added, "widened": _widened}


@cache
def _way(device: str, dtype: torch.dtype) -> str:
    """The first way that works here, by one small product each: which do differs between torch versions and devices."""
    if dtype in (torch.float32, torch.float64):
        return "widened"  # nothing to widen
    w = torch.eye(16, device=device, dtype=dtype)
    b = torch.arange(256.0, device=device).view(16, 16).to(dtype)
    for way in ("in place", "added"):
        grad = torch.ones(16, 16, device=device)
        try:
            _ADD[way](grad, w, b)
            # The host may look at this product: it is not part of any call's own work.
            if torch.equal(grad, b.float() + 1):
                return way
        except (RuntimeError, TypeError, NotImplementedError):
            continue
    return "widened"
