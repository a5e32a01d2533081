"""The operations on the CPU: a library product, then one fused C++ pass over the scores (csrc/cpu)."""

from __future__ import annotations

import torch
from torch import Tensor

from clipfast.compute import native
from clipfast.compute.backend_declaration import Declaration, Query
from clipfast.compute.gemm import cpu_gemm
from clipfast.compute.torch_backend import TorchRows
from clipfast.sweep.pairs import Pairs
from clipfast.sweep.row_operations import ProductOperations, RowFinish
from clipfast.sweep.schedule import Tile
from clipfast.sweep.tile_operations import Backend, LineFactors, PartialSums, SigmoidRows, Workspace

_ops = torch.ops.clipfast_cpu


class CpuRows(TorchRows):
    """Features are widened to float32, as torch's are; what takes one row after another is C++."""

    def paired_dots(self, x: Tensor, y: Tensor, partner: Tensor | None) -> Tensor:
        dots = torch.empty(x.shape[0], dtype=torch.float64)
        _ops.paired_dots(x, y, partner, dots)
        return dots

    def finish_rows(self, grad: Tensor, finish: RowFinish, out: Tensor) -> Tensor:
        *tensors, alpha, scale = finish
        dots = torch.empty(grad.shape[0], dtype=torch.float64)
        _ops.finish_rows(grad, *tensors, float(alpha), float(scale), dots)
        if out.data_ptr() != grad.data_ptr():
            out.copy_(grad)
        return dots


class CpuTiles:
    """Float32 only; the loops read the scores where the product left them."""

    def __init__(self, products: ProductOperations) -> None:
        self.products = products

    def exp_sums(self, pairs: Pairs, tile: Tile, shift_log2: Tensor, sums: PartialSums, workspace: Workspace) -> None:
        out = workspace.exponentials(tile)
        scores = self._scores(pairs, tile, out)
        target = scores if tile.slot is None else out
        row_sum, row_max, col_sum, col_max = sums
        _ops.exp_sums(scores, target, *_logits(pairs, tile), float(shift_log2), row_sum, col_sum, row_max, col_max)

    def weights(self, pairs: Pairs, tile: Tile, factors: LineFactors, workspace: Workspace) -> Tensor:
        kept, out = workspace.kept(tile), workspace.weights(tile)
        scores = self._scores(pairs, tile, out) if kept is None else kept
        target = scores if kept is None else out
        row_scale, col_inverse_norm, excluded = pairs.row_scale, pairs.col_inverse_norm, pairs.excluded
        _ops.softmax_weights(
            scores, target, tile.row0, tile.col0, row_scale, col_inverse_norm, pairs.rows.inner, excluded,
            float(factors.shift_log2), kept is not None, factors.u, factors.v,
        )  # fmt: skip
        return target

    def sigmoid(self, pairs: Pairs, tile: Tile, rows: SigmoidRows, workspace: Workspace) -> Tensor | None:
        scores = self._scores(pairs, tile, workspace.scratch(tile))
        wanted = rows.sigmoid_sum is not None
        _ops.sigmoid(
            scores, tile.row0, tile.col0, pairs.row_scale, pairs.col_inverse_norm, pairs.rows.inner, pairs.excluded,
            float(rows.bias), wanted, rows.upstream, rows.loss, rows.sigmoid_sum if wanted else rows.loss,
        )  # fmt: skip
        return scores if wanted else None

    def _scores(self, pairs: Pairs, tile: Tile, out: Tensor) -> Tensor:
        return self.products.scores(pairs.rows.x[tile.rows], pairs.cols.x[tile.cols], out)


def _logits(pairs: Pairs, tile: Tile) -> tuple[int, int, Tensor, Tensor | None, Tensor]:
    """What turns the tile's scores into logits, in the operators' order."""
    return tile.row0, tile.col0, pairs.row_scale, pairs.col_inverse_norm, pairs.excluded


def _why_not(query: Query | None) -> str | None:
    if native.load_error():
        return f"the CPU extension is not available: {native.load_error()}"
    if query is None:
        return None
    if query.device != "cpu":
        return f"it runs on the CPU; the features are on {query.device}"
    if query.dtype == torch.float64:
        return "it computes in float32; float64 features need the torch backend"
    return None


def _make() -> Backend:
    products, _ = cpu_gemm()
    return Backend("cpu", CpuRows(), CpuTiles(products), products)


CPU = Declaration("cpu", _why_not, _make, chosen_on=("cpu",))
