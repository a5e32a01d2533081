"""The three products of a tile, on the library that runs them fastest.

Both classes have the same methods: ``scores`` gives ``a @ b.T``, ``add_rows`` adds ``w @ b`` and ``add_cols`` adds
``w.T @ a`` in place, the latter from ``transposed(a)``, which a sweep computes once for a strip of rows.
"""

from __future__ import annotations

import platform
from functools import cache
from pathlib import Path

import torch
from torch import Tensor


class TorchGemm:
    """``torch.mm``: MKL, OpenBLAS, Accelerate or cuBLAS, whatever torch was built with. Needs no temporary."""

    name = "torch.mm"
    in_place = True
    """Whether results are written and added up where they belong, without a temporary."""

    def scores(self, a: Tensor, b: Tensor, out: Tensor) -> Tensor:
        return torch.mm(a, b.t(), out=out)

    def add_rows(self, grad: Tensor, w: Tensor, b: Tensor) -> None:
        grad.addmm_(w, b)

    def transposed(self, a: Tensor) -> Tensor:
        return a.t()

    def add_cols(self, grad: Tensor, w: Tensor, a_transposed: Tensor) -> None:
        grad.addmm_(w.t(), a_transposed.t())


class OneDnnGemm(TorchGemm):
    """oneDNN's inner product, which uses AVX-512 on every vendor's processors (MKL only on Intel's).

    It cannot accumulate, and it copies a transposed left operand; so ``w.T @ a`` is computed as ``(a.T @ w).T``.
    Products of fewer than ``SMALL`` multiplications stay with ``torch.mm``, which starts 10 microseconds sooner.
    """

    SMALL = 2**21

    name = "oneDNN"
    in_place = False

    def _product(self, x: Tensor, weight: Tensor) -> Tensor:
        return torch.ops.mkldnn._linear_pointwise(x, weight, None, "none", [], "")

    def scores(self, a: Tensor, b: Tensor, out: Tensor) -> Tensor:
        if out.numel() * a.shape[1] < self.SMALL:
            return super().scores(a, b, out)
        return self._product(a, b)

    def add_rows(self, grad: Tensor, w: Tensor, b: Tensor) -> None:
        if w.numel() * b.shape[1] < self.SMALL:
            return super().add_rows(grad, w, b)
        grad.add_(self._product(w, b.t()))

    def transposed(self, a: Tensor) -> Tensor:
        return a.t().contiguous()

    def add_cols(self, grad: Tensor, w: Tensor, a_transposed: Tensor) -> None:
        if w.numel() * a_transposed.shape[0] < self.SMALL:
            return super().add_cols(grad, w, a_transposed)
        torch.ops.clipfast_cpu.add_transposed(grad, self._product(a_transposed, w.t()))


def _vendor() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        return platform.processor()
    return next((line.split(":")[1].strip() for line in lines if line.startswith("vendor_id")), "unknown")


def _onednn_works() -> bool:
    """The operator is internal to torch, so ask it for one small product instead of trusting a version number."""
    try:
        a, b = torch.eye(3)[:2], torch.arange(12.0).view(4, 3)
        return bool(torch.equal(OneDnnGemm()._product(a, b), a @ b.t()))
    except (AttributeError, RuntimeError):
        return False


@cache
def cpu_gemm() -> tuple[TorchGemm | OneDnnGemm, str]:
    """The float32 product for this CPU, and the reason for the choice."""
    level, vendor = torch.backends.cpu.get_cpu_capability(), _vendor()
    if level != "AVX512":
        return TorchGemm(), f"torch.mm: the processor's level is {level}; oneDNN gains on AVX-512"
    if vendor == "GenuineIntel" and torch.backends.mkl.is_available():
        return TorchGemm(), "torch.mm: MKL uses AVX-512 on this Intel processor"
    if not _onednn_works():
        return TorchGemm(), "torch.mm: this torch build has no usable oneDNN inner product"
    return OneDnnGemm(), f"oneDNN: AVX-512 on {vendor}, where MKL would use AVX2"
