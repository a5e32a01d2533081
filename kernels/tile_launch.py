"""The launch that the tile kernels share: loads by TMA or by pointers, the grid, and the compile-time constants."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
import triton
from torch import Tensor
from triton.tools.tensor_descriptor import TensorDescriptor

from clipfast.kernels.block_sizes import Block, precision_of, tma_loads
from clipfast.kernels.launch_records import Scores


def descriptor(x: Tensor, rows: int, depth: int) -> TensorDescriptor:
    return TensorDescriptor(x, list(x.shape), list(x.stride()), [rows, depth])


def launch_tile(kernel: Any, scores: Scores, own: Sequence[Any], block: Block) -> None:
    """Run a tile kernel over ``scores`` in blocks of ``block``; ``own`` are the arguments that this kernel alone has."""
    rows, cols, row_scale, col_inverse_norm, excluded, first_col = scores
    (m, width), n = rows.shape, cols.shape[0]
    depth = block.depth(rows.element_size())
    tma = tma_loads(rows) and tma_loads(cols)
    left, right = (descriptor(rows, block.rows, depth), descriptor(cols, block.cols, depth)) if tma else (rows, cols)
    grid = (triton.cdiv(m, block.rows) * triton.cdiv(n, block.cols),)
    kernel[grid](
        left, right, row_scale, col_inverse_norm, excluded, *own, m, n, width, rows.stride(0), cols.stride(0), first_col,
        EXCLUDED=excluded.shape[1], TMA=tma, PRECISION=precision_of(rows), SPLIT=rows.dtype == torch.float32, BM=block.rows,
        BN=block.cols, BK=depth, GROUP=block.group, num_warps=block.warps, num_stages=block.stages,
    )  # fmt: skip
