"""The tile operations in CUDA C++ (csrc/cuda); what goes row by row, and the range guard, is Triton's."""

from __future__ import annotations

import torch
from torch import Tensor

from clipfast.backends import native
from clipfast.backends.backend_declaration import Declaration, Query
from clipfast.backends.triton_backend import TileKernels, TritonRows, triton_with, why_not_triton
from clipfast.sweep.tile_operations import Backend

_ops = torch.ops.clipfast_cuda


class CudaRows(TritonRows):
    """Features' rows start at multiples of 16 bytes."""

    def stored(self, features: Tensor) -> Tensor:
        x = super().stored(features)
        aligned = x.data_ptr() % 16 == 0 and x.stride(0) * x.element_size() % 16 == 0
        return x if aligned else x.contiguous()


def _blocks(features: Tensor) -> tuple[int, int]:
    major, minor = torch.cuda.get_device_capability(features.device)
    rows, cols = _ops.tile_shape(10 * major + minor, features.element_size())
    return rows, cols


def why_not_cuda(query: Query | None) -> str | None:
    reason = native.load_error("cuda")
    if reason:
        return f"the CUDA extension is not available: {reason}"
    if query is None:
        return None if torch.cuda.is_available() else "torch sees no GPU"
    reason = why_not_triton(query)
    if reason:
        return reason
    if query.row_bytes % 16:
        return f"its loads take 16 bytes at a time; the features' rows have {query.row_bytes} bytes, no multiple of 16"
    if query.dtype == torch.float32 and not torch.backends.cuda.matmul.allow_tf32:
        return "its float32 products are TF32, which torch.backends.cuda.matmul.allow_tf32 does not allow; triton has IEEE"
    return None


def _make() -> Backend:
    return triton_with("cuda", CudaRows, TileKernels(_ops.exp_sums, _ops.softmax_weights, _ops.sigmoid, _blocks))


CUDA = Declaration("cuda", why_not_cuda, _make)
