"""The three tile kernels in CUDA C++ (csrc/cuda), with the records and signatures of the Triton launchers in ``kernels/``.

The extension's operators have flat schemas, which these functions fill from the records. A launcher here takes no block: the
blocks are fixed when the extension is compiled, and ``block_shape`` tells them, since they size the partial sums.
"""

from __future__ import annotations

import torch
from torch import Tensor

from clipfast.kernels.launch_records import Inner, Scores

_ops = torch.ops.clipfast_cuda


def block_shape(features: Tensor) -> tuple[int, int]:
    """Rows and columns that share a partial sum, for features of this dtype on this device."""
    major, minor = torch.cuda.get_device_capability(features.device)
    rows, cols = _ops.tile_shape(10 * major + minor, features.element_size())
    return rows, cols


def exp_sums(
    scores: Scores, shift_log2: Tensor, row_sum: Tensor, col_sum: Tensor | None, row_max: Tensor | None,
    col_max: Tensor | None,
) -> None:  # fmt: skip
    """As ``clipfast.kernels.exp_sums``: ``scores.row_scale`` in base 2; an infinite shift writes zeros."""
    _ops.exp_sums(*scores[:5], shift_log2, scores.first_col, row_sum, col_sum, row_max, col_max)


def softmax_weights(scores: Scores, shift_log2: Tensor, u: Tensor, v: Tensor, inner: Inner, out: Tensor) -> None:
    """As ``clipfast.kernels.softmax_weights``: ``scores.row_scale`` in base 2; an infinite shift leaves ``out`` alone."""
    rows, cols, row_scale_log2, col_inverse_norm, excluded, first_col = scores
    _ops.softmax_weights(
        rows, cols, row_scale_log2, col_inverse_norm, *inner, excluded, shift_log2, u, v, first_col, out
    )  # fmt: skip


def sigmoid(
    scores: Scores, bias: Tensor, upstream: Tensor | None, inner: Inner, row_loss: Tensor, row_sigmoid_sum: Tensor | None,
    out: Tensor | None,
) -> None:  # fmt: skip
    """As ``clipfast.kernels.sigmoid``: ``scores.row_scale`` in natural units."""
    rows, cols, row_scale, col_inverse_norm, excluded, first_col = scores
    _ops.sigmoid(
        rows, cols, row_scale, col_inverse_norm, *inner, excluded, bias, upstream, first_col, row_loss, row_sigmoid_sum, out
    )
