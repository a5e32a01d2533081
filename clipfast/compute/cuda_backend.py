"""The tile operations in CUDA C++ (csrc/cuda); what goes row by row, and the range guard, is Triton's."""

from __future__ import annotations

import torch
from torch import Tensor

from clipfast.compute import cuda_kernels, native
from clipfast.compute.backend_declaration import Declaration, Query
from clipfast.compute.triton_backend import TileKernels, TritonRows, triton_with, why_not_triton
from clipfast.sweep.tile_operations import Backend


class CudaRows(TritonRows):
    """Features' rows start at multiples of 16 bytes."""

    def stored(self, features: Tensor) -> Tensor:
        x = super().stored(features)
        aligned = x.data_ptr() % 16 == 0 and x.stride(0) * x.element_size() % 16 == 0
        return x if aligned else x.contiguous()


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
    kernels = TileKernels(cuda_kernels.exp_sums, cuda_kernels.softmax_weights, cuda_kernels.sigmoid, cuda_kernels.block_shape)
    return triton_with("cuda", CudaRows, kernels)


CUDA = Declaration("cuda", why_not_cuda, _make)
