"""The launch that the tile kernels share: block sizes, loads by TMA or by pointers, and the grid."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
import triton
from torch import Tensor
from triton.tools.tensor_descriptor import TensorDescriptor

from clipfast.kernels import tune
from clipfast.kernels.block_sizes import Block, capability, precision_of, tma_loads


def block_of(features: Tensor) -> Block:
    """The block of features of this dtype on this device."""
    return tune.block(capability(features.device)[0], features.dtype, precision_of(features.dtype, features.device.type))


def descriptor(x: Tensor, rows: int, depth: int) -> TensorDescriptor:
    return TensorDescriptor(x, list(x.shape), list(x.stride()), [rows, depth])


def launch_tile(
    kernel: Any, rows: Tensor, cols: Tensor, vectors: Sequence[Any], first_col: int, excluded: int, block: Block | None = None
) -> None:
    """Run a tile kernel over ``rows`` (m, D) against ``cols`` (n, D); ``vectors`` are the arguments of its own."""
    (m, width), n = rows.shape, cols.shape[0]
    block = block or block_of(rows)
    major, depth = capability(rows.device)[0], block.depth(rows.element_size())
    tma = tma_loads(rows, major) and tma_loads(cols, major)
    left, right = (descriptor(rows, block.rows, depth), descriptor(cols, block.cols, depth)) if tma else (rows, cols)
    grid = (triton.cdiv(m, block.rows) * triton.cdiv(n, block.cols),)
    kernel[grid](
        left, right, *vectors, m, n, width, rows.stride(0), cols.stride(0), first_col, EXCLUDED=excluded, TMA=tma,
        PRECISION=precision_of(rows.dtype, rows.device.type), SPLIT=rows.dtype == torch.float32, BM=block.rows,
        BN=block.cols, BK=depth, GROUP=block.group, num_warps=block.warps, num_stages=block.stages,
    )  # fmt: skip
