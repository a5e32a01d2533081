"""Tile operations on the CPU: a library product, then one fused C++ pass over the scores (csrc/cpu)."""

from __future__ import annotations

import torch
from torch import Tensor

from clipfast.backends.gemm import cpu_gemm
from clipfast.backends.torch_backend import TorchTiles
from clipfast.sweep.pairs import Pairs
from clipfast.sweep.softmax_passes import Sums, Weights
from clipfast.sweep.tiling import Tile, Workspace

_ops = torch.ops.clipfast_cpu


class CpuTiles(TorchTiles):
    """Float32 only; the torch expression that each operation replaces is ``TorchTiles``' method of the same name."""

    name = "cpu"

    def __init__(self) -> None:
        self.gemm, _ = cpu_gemm()

    def exp_sums(self, pairs: Pairs, tile: Tile, shift: Tensor, sums: Sums, workspace: Workspace) -> None:
        out, keep = workspace.place(tile)
        cols, scores = sums.wants_cols(tile), self.scores(pairs, tile, out)
        _ops.exp_sums(
            scores, out if keep else scores, tile.row0, tile.col0, pairs.row_factor, pairs.col_factor, pairs.excluded,
            float(shift), sums.row_sum, sums.col_sum if cols else None, sums.row_best, sums.col_best if cols else None,
        )  # fmt: skip

    def _weights(self, pairs: Pairs, tile: Tile, weights: Weights, kept: Tensor | None, out: Tensor) -> Tensor:
        scores = self.scores(pairs, tile, out) if kept is None else kept
        target = scores if kept is None else out
        _ops.softmax_weights(
            scores, target, tile.row0, tile.col0, pairs.row_factor, pairs.col_factor, pairs.rows.inner, pairs.excluded,
            float(weights.shift), kept is not None, weights.rows.factor, weights.cols.factor,
        )  # fmt: skip
        return target

    def sigmoid(
        self, pairs: Pairs, tile: Tile, bias: Tensor, row_weight: Tensor, loss: Tensor, weight: Tensor | None,
        workspace: Workspace,
    ) -> Tensor | None:  # fmt: skip
        scores = self.scores(pairs, tile, workspace.scratch(tile))
        _ops.sigmoid(
            scores, tile.row0, tile.col0, pairs.row_factor, pairs.col_factor, pairs.rows.inner, pairs.excluded, float(bias),
            weight is not None, row_weight, loss, loss if weight is None else weight,
        )  # fmt: skip
        return None if weight is None else scores

    def paired_dots(self, x: Tensor, y: Tensor, partner: Tensor | None) -> Tensor:
        dots = torch.empty(x.shape[0], dtype=torch.float64)
        _ops.paired_dots(x, y, partner, dots)
        return dots

    def finish_rows(
        self, grad: Tensor, x: Tensor, y: Tensor | None, partner: Tensor | None, coef: Tensor | None,
        projection: Tensor | None, alpha: Tensor, scale: Tensor, out: Tensor,
    ) -> Tensor:  # fmt: skip
        dots = torch.empty(x.shape[0], dtype=torch.float64)
        _ops.finish_rows(grad, x, y, partner, coef, projection, float(alpha), float(scale), dots)
        if out.data_ptr() != grad.data_ptr():
            out.copy_(grad)
        return dots
