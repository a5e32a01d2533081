"""Tile operations on a GPU: one fused Triton kernel each (kernels/), the accumulating products on the library."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from clipfast.backends.gemm_cuda import DeviceGemm
from clipfast.backends.torch_backend import TorchTiles
from clipfast.kernels.exact_lse import exact_lse
from clipfast.kernels.exact_weights import exact_weights
from clipfast.kernels.exp_sums import exp_sums
from clipfast.kernels.finish_rows import finish_rows
from clipfast.kernels.launch import block_of
from clipfast.kernels.paired_dots import paired_dots
from clipfast.kernels.row_norms import row_norms
from clipfast.kernels.sigmoid import sigmoid
from clipfast.kernels.softmax_weights import softmax_weights
from clipfast.sweep.pairs import Pairs
from clipfast.sweep.softmax_passes import EXACT, Sums, Weights
from clipfast.sweep.tiling import Tile, Workspace

if TYPE_CHECKING:
    from clipfast.sweep.sweep import Sweep


class TritonTiles(TorchTiles):
    """Features stay in their dtype, scores never reach memory, and nothing waits for the device.

    ``TorchTiles`` states each operation as a torch expression. The three tile kernels are attributes, so that another
    implementation of the same three replaces only those.
    """

    name = "triton"
    gemm = DeviceGemm()
    exp_sums_kernel = staticmethod(exp_sums)
    softmax_weights_kernel = staticmethod(softmax_weights)
    sigmoid_kernel = staticmethod(sigmoid)

    def blocks(self, features: Tensor) -> tuple[int, int]:
        """Rows and columns that share a partial sum."""
        block = block_of(features)
        return block.rows, block.cols

    def stored(self, features: Tensor) -> Tensor:
        return features if features.stride(1) == 1 and features.stride(0) > 0 else features.contiguous()

    def widened(self, rows: Tensor, cols: Tensor | None) -> tuple[Tensor, Tensor | None]:
        return rows, cols

    def norms(self, x: Tensor, eps: float) -> tuple[Tensor, Tensor, Tensor]:
        norm, inverse, projection = row_norms(x, eps)
        return norm, inverse, projection

    def exp_sums(self, pairs: Pairs, tile: Tile, shift: Tensor, sums: Sums, workspace: Workspace) -> None:
        (m, n), (block_m, block_n), cols = tile.shape, self.blocks(pairs.rows.x), sums.wants_cols(tile)
        by_row = _partials(pairs, math.ceil(n / block_n), m, sums.row_best is not None)
        by_col = _partials(pairs, math.ceil(m / block_m), n, sums.col_best is not None) if cols else (None, None)
        row_factor, col_factor = pairs.row_factor_base2[tile.rows], _slice(pairs.col_factor, tile.cols)
        self.exp_sums_kernel(
            *_sides(pairs, tile), row_factor, col_factor, pairs.excluded[tile.rows], shift, tile.col0, by_row[0], by_col[0],
            by_row[1], by_col[1],
        )  # fmt: skip
        _reduce(by_row, sums.row_sum[tile.rows], _slice(sums.row_best, tile.rows))
        _reduce(by_col, _slice(sums.col_sum, tile.cols), _slice(sums.col_best, tile.cols))

    def softmax_weights(self, pairs: Pairs, tile: Tile, weights: Weights, workspace: Workspace) -> Tensor:
        """Both kernels are launched; the shift, on the device, tells one of them to do nothing."""
        (u, row_share, row_lse), (v, col_share, col_lse) = weights.rows, weights.cols
        out, shift = workspace.scratch(tile), weights.shift
        sides, inner, excluded = _sides(pairs, tile), _inner(pairs, tile), pairs.excluded[tile.rows]
        row_factor, col_factor = pairs.row_factor_base2[tile.rows], _slice(pairs.col_factor, tile.cols)
        self.softmax_weights_kernel(
            *sides, row_factor, col_factor, *inner, excluded, shift, u[tile.rows], v[tile.cols], tile.col0, out
        )
        exact_weights(
            *sides, pairs.row_factor[tile.rows], _slice(pairs.cols.inverse_norm, tile.cols), *inner, excluded, shift,
            _slice(row_lse, tile.rows), _slice(col_lse, tile.cols), _slice(row_share, tile.rows), _slice(col_share, tile.cols),
            tile.col0, out,
        )  # fmt: skip
        return out

    def guarded(
        self, sweep: Sweep, lost: Tensor, shift: Tensor, negatives: Tensor, best: Tensor | None
    ) -> tuple[Tensor, Tensor, Tensor | None]:
        """Overwrites the log-sum-exps where ``lost``, a flag on the device, says so. In a group the host has to look: the
        exact path exchanges features once more."""
        if sweep.exchange.ranks > 1:
            return super().guarded(sweep, lost, shift, negatives, best)
        pairs = sweep.pairs
        (row_lse, col_lse), (row_best, col_best) = pairs.split(negatives), pairs.split(best)
        exact_lse(
            pairs.rows.x, pairs.cols.x, pairs.row_factor, pairs.cols.inverse_norm, pairs.excluded, lost, row_lse, row_best
        )
        if pairs.both:
            col_factor = (
                pairs.scale.expand(pairs.shape[1]) if pairs.cols.inverse_norm is None else pairs.cols.inverse_norm * pairs.scale
            )
            back = torch.arange(pairs.shape[1], device=lost.device) if pairs.back is None else pairs.back
            exact_lse(
                pairs.cols.x,
                pairs.rows.x,
                col_factor.contiguous(),
                pairs.rows.inverse_norm,
                back.unsqueeze(1),
                lost,
                col_lse,
                col_best,
            )
        return torch.where(lost, EXACT, shift), negatives, best

    def sigmoid(
        self, pairs: Pairs, tile: Tile, bias: Tensor, row_weight: Tensor, loss: Tensor, weight: Tensor | None,
        workspace: Workspace,
    ) -> Tensor | None:  # fmt: skip
        (m, n), (_, block_n) = tile.shape, self.blocks(pairs.rows.x)
        out = None if weight is None else workspace.scratch(tile)
        partial, partial_weight = _partials(pairs, math.ceil(n / block_n), m, weight is not None)
        self.sigmoid_kernel(
            *_sides(pairs, tile), pairs.row_factor[tile.rows], _slice(pairs.col_factor, tile.cols), *_inner(pairs, tile),
            pairs.excluded[tile.rows], bias, row_weight[tile.rows], tile.col0, partial, partial_weight, out,
        )  # fmt: skip
        _reduce((partial, None), loss[tile.rows], None)
        _reduce((partial_weight, None), _slice(weight, tile.rows), None)
        return out

    def paired_dots(self, x: Tensor, y: Tensor, partner: Tensor | None) -> Tensor:
        return paired_dots(x, y, partner)

    def finish_rows(
        self, grad: Tensor, x: Tensor, y: Tensor | None, partner: Tensor | None, coef: Tensor | None,
        projection: Tensor | None, alpha: Tensor, scale: Tensor, out: Tensor,
    ) -> Tensor:  # fmt: skip
        return finish_rows(grad, x, y, partner, coef, projection, alpha, scale, out)


def _partials(pairs: Pairs, blocks: int, lines: int, second: bool) -> tuple[Tensor, Tensor | None]:
    """One or two float32 (blocks, lines) that a kernel fills whole; summed over the blocks in a fixed order."""
    first = pairs.row_factor.new_empty(blocks, lines, dtype=torch.float32)
    return first, torch.empty_like(first) if second else None


def _reduce(partial: tuple[Tensor | None, Tensor | None], total: Tensor | None, best: Tensor | None) -> None:
    sums, tops = partial
    if sums is not None and total is not None:
        total += sums.sum(0, dtype=torch.float64)
    if tops is not None and best is not None:
        torch.maximum(best, tops.amax(0), out=best)


def _slice(values: Tensor | None, part: slice) -> Tensor | None:
    return None if values is None else values[part]


def _sides(pairs: Pairs, tile: Tile) -> tuple[Tensor, Tensor]:
    return pairs.rows.x[tile.rows], pairs.cols.x[tile.cols]


def _inner(pairs: Pairs, tile: Tile) -> tuple[Tensor | None, Tensor | None]:
    return _slice(pairs.rows.inner, tile.rows), _slice(pairs.cols.inner, tile.cols)
