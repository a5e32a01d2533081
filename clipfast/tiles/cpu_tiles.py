"""Tile operations on the CPU: a library product, then one fused C++ pass over the scores (csrc/cpu)."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from clipfast.gemm import cpu_gemm
from clipfast.pairs import Pairs
from clipfast.softmax import Sums, Weights
from clipfast.tiles.torch_tiles import TorchTiles
from clipfast.tiling import Tile

_ops = torch.ops.clipfast_cpu


class CpuTiles(TorchTiles):
    """Float32 only; the torch expression that each operation replaces is ``TorchTiles``' method of the same name."""

    name = "cpu"

    def __init__(self) -> None:
        self.gemm, _ = cpu_gemm()

    def exp_sums(self, pairs: Pairs, tile: Tile, shift: float, sums: Sums, out: Tensor, keep: bool) -> None:
        cols, scores = sums.wants_cols(tile), self.scores(pairs, tile, out)
        _ops.exp_sums(
            scores, out if keep else scores, tile.row0, tile.col0, pairs.row_factor, pairs.col_factor, pairs.excluded,
            _log2(shift), sums.row_sum, sums.col_sum if cols else None, sums.row_best, sums.col_best if cols else None,
        )  # fmt: skip

    def softmax_weights(self, pairs: Pairs, tile: Tile, weights: Weights, kept: Tensor | None, out: Tensor) -> Tensor:
        scores = self.scores(pairs, tile, out) if kept is None else kept
        target = scores if kept is None else out
        _ops.softmax_weights(
            scores, target, tile.row0, tile.col0, pairs.row_factor, pairs.col_factor, pairs.row_norm, pairs.excluded,
            _log2(weights.shift), kept is not None, weights.rows, weights.cols,
        )  # fmt: skip
        return target

    def sigmoid(
        self,
        pairs: Pairs,
        tile: Tile,
        bias: float,
        row_weight: Tensor | None,
        loss: Tensor,
        weight: Tensor | None,
        out: Tensor,
    ) -> Tensor:
        scores = self.scores(pairs, tile, out)
        _ops.sigmoid(
            scores, tile.row0, tile.col0, pairs.row_factor, pairs.col_factor, pairs.row_norm, pairs.excluded, bias,
            weight is not None, row_weight, loss, loss if weight is None else weight,
        )  # fmt: skip
        return scores

    def paired_dots(self, x: Tensor, y: Tensor, partner: Tensor | None) -> Tensor:
        dots = torch.empty(x.shape[0], dtype=torch.float64)
        _ops.paired_dots(x, y, partner, dots)
        return dots

    def finish_rows(
        self, grad: Tensor, x: Tensor, y: Tensor | None, partner: Tensor | None, coef: Tensor | None,
        projection: Tensor | None, alpha: float, scale: float,
    ) -> Tensor:  # fmt: skip
        dots = torch.empty(x.shape[0], dtype=torch.float64)
        _ops.finish_rows(grad, x, y, partner, coef, projection, alpha, scale, dots)
        return dots


def _log2(shift: float) -> float:
    """The shift in base 2: it was chosen as a whole number of them (``softmax.choose_shift``)."""
    return shift if math.isnan(shift) else float(round(shift / math.log(2)))
