"""Tile operations in CUDA C++ (csrc/cuda): the three tile kernels; what goes row by row, and the range guard, is Triton's."""

from __future__ import annotations

import torch
from torch import Tensor

from clipfast.backends.triton_backend import TritonTiles

_ops = torch.ops.clipfast_cuda


class CudaTiles(TritonTiles):
    """bfloat16, float16 and TF32 on compute capability 8.0 and newer; features' rows start at multiples of 16 bytes."""

    name = "cuda"

    exp_sums_kernel = _ops.exp_sums
    softmax_weights_kernel = _ops.softmax_weights
    sigmoid_kernel = _ops.sigmoid

    def blocks(self, features: Tensor) -> tuple[int, int]:
        major, minor = torch.cuda.get_device_capability(features.device)
        rows, cols = _ops.tile_shape(10 * major + minor, features.element_size())
        return rows, cols

    def stored(self, features: Tensor) -> Tensor:
        x = super().stored(features)
        aligned = x.data_ptr() % 16 == 0 and x.stride(0) * x.element_size() % 16 == 0
        return x if aligned else x.contiguous()
