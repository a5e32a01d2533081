"""Tile operations in plain torch: any device, any dtype. Also what every other backend is measured against."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
from torch import Tensor

from clipfast.backends.gemm import TorchGemm
from clipfast.backends.widening import widened
from clipfast.sweep import exact
from clipfast.sweep.pairs import Pairs, compute_dtype
from clipfast.sweep.softmax_passes import EXACT, LN2, Sums, Weights
from clipfast.sweep.tiling import Tile, Workspace

if TYPE_CHECKING:
    from clipfast.sweep.sweep import Sweep

ROWS_AT_ONCE = 1024  # bounds the float64 temporaries of the row-wise operations


class TorchTiles:
    """Implements the tile protocol (see ``registry``) with ``torch.mm`` and in-place element-wise operations."""

    name = "torch"
    gemm = TorchGemm()

    def stored(self, features: Tensor) -> Tensor:
        """The features as the tiles read them: in the compute dtype, contiguous."""
        return features.to(compute_dtype(features.dtype)).contiguous()

    def widened(self, rows: Tensor, cols: Tensor | None) -> tuple[Tensor, Tensor | None]:
        """Both sides as ``stored`` wants them, for one call only: their memory may be used again."""
        return widened(rows, cols)

    def norms(self, x: Tensor, eps: float) -> tuple[Tensor, Tensor, Tensor]:
        """Each row's norm, what normalises it as ``F.normalize`` does, and the factor of the Jacobian's projection (float64).

        Below ``eps`` the norm is a constant, and its derivative vanishes.
        """
        norm = self.paired_dots(x, x, None).sqrt_()
        inverse = norm.clamp_min(eps).reciprocal_()
        return norm, inverse, inverse.square() * (norm > eps)

    def guarded(
        self, sweep: Sweep, lost: Tensor, shift: Tensor, negatives: Tensor, best: Tensor | None
    ) -> tuple[Tensor, Tensor, Tensor | None]:
        """Pass 1's results, from the exact path where ``lost``, on any rank, says that one window does not hold them."""
        if not float(sweep.exchange.largest(lost.double())):
            return shift, negatives, best
        return torch.full_like(shift, EXACT), *exact.forward(sweep)

    def exp_sums(self, pairs: Pairs, tile: Tile, shift: Tensor, sums: Sums, workspace: Workspace) -> None:
        out, _ = workspace.place(tile)
        e = self._logits(pairs, tile, out, shift * -LN2).exp_()
        _clear(e, pairs, tile)
        sums.row_sum[tile.rows] += e.sum(1)
        if sums.row_best is not None:
            torch.maximum(sums.row_best[tile.rows], e.amax(1), out=sums.row_best[tile.rows])
        if sums.col_sum is not None and sums.wants_cols(tile):
            sums.col_sum[tile.cols] += e.sum(0)
            if sums.col_best is not None:
                torch.maximum(sums.col_best[tile.cols], e.amax(0), out=sums.col_best[tile.cols])

    def softmax_weights(self, pairs: Pairs, tile: Tile, weights: Weights, workspace: Workspace) -> Tensor:
        kept, out = workspace.find(tile)
        if weights.on_exact_path:
            return exact.softmax_weights(pairs, tile, weights, out)
        return self._weights(pairs, tile, weights, kept, out)

    def _weights(self, pairs: Pairs, tile: Tile, weights: Weights, kept: Tensor | None, out: Tensor) -> Tensor:
        sums = weights.rows.factor[tile.rows].unsqueeze(1) + weights.cols.factor[tile.cols]
        if kept is not None:
            return _times_norms(torch.mul(kept, sums, out=out), pairs, tile)
        e = self._logits(pairs, tile, out, weights.shift * -LN2).exp_()
        _clear(e, pairs, tile)
        return _times_norms(e.mul_(sums), pairs, tile)

    def sigmoid(
        self, pairs: Pairs, tile: Tile, bias: Tensor, row_weight: Tensor, loss: Tensor, weight: Tensor | None,
        workspace: Workspace,
    ) -> Tensor | None:  # fmt: skip
        """Adds to ``loss`` and ``weight`` (M,); the stored weights, where ``weight`` asks for them."""
        z = self._logits(pairs, tile, workspace.scratch(tile), bias)
        _clear(z, pairs, tile, -torch.inf)
        loss[tile.rows] += torch.logaddexp(z, z.new_zeros(())).sum(1)
        if weight is None:
            return None
        p = z.sigmoid_()
        weight[tile.rows] += p.sum(1)
        return _times_norms(p.mul_(row_weight[tile.rows].unsqueeze(1)), pairs, tile)

    def scores(self, pairs: Pairs, tile: Tile, out: Tensor) -> Tensor:
        return self.gemm.scores(pairs.rows.x[tile.rows], pairs.cols.x[tile.cols], out)

    def paired_dots(self, x: Tensor, y: Tensor, partner: Tensor | None) -> Tensor:
        """``(x.double() * y[partner].double()).sum(1)``, 0 where the partner is -1."""
        dots = torch.empty(x.shape[0], dtype=torch.float64, device=x.device)
        for r in _chunks(x):
            other = y[r] if partner is None else y[partner[r].clamp_min(0)]
            dots[r] = (x[r].double() * other.double()).sum(1)
        return dots if partner is None else dots.masked_fill_(partner < 0, 0.0)

    def finish_rows(
        self, grad: Tensor, x: Tensor, y: Tensor | None, partner: Tensor | None, coef: Tensor | None,
        projection: Tensor | None, alpha: Tensor, scale: Tensor, out: Tensor,
    ) -> Tensor:  # fmt: skip
        """``g = alpha * grad - coef * y[partner]``, ``out = scale * (g - projection * <x, g> * x)``; returns ``<x, g>``.

        ``grad`` is overwritten; ``out`` may be the same.
        """
        dots = torch.empty(x.shape[0], dtype=torch.float64, device=x.device)
        factor, by = alpha.to(grad.dtype), scale.to(grad.dtype)
        for r in _chunks(x):
            g = grad[r].mul_(factor)
            if y is not None and coef is not None:
                other = y[r] if partner is None else y[partner[r].clamp_min(0)]
                own = coef[r] if partner is None else coef[r].masked_fill(partner[r] < 0, 0.0)
                g -= own.to(g.dtype).unsqueeze(1) * other
            dots[r] = (x[r].double() * g.double()).sum(1)
            if projection is not None:
                g -= (projection[r] * dots[r]).to(g.dtype).unsqueeze(1) * x[r]
            g *= by
        if out.data_ptr() != grad.data_ptr():
            out.copy_(grad)
        return dots

    def _logits(self, pairs: Pairs, tile: Tile, out: Tensor, add: Tensor) -> Tensor:
        z = self.scores(pairs, tile, out)
        if pairs.col_factor is not None:
            z.mul_(pairs.col_factor[tile.cols])
        return z.mul_(pairs.row_factor[tile.rows].to(z.dtype).unsqueeze(1)).add_(add)


def _chunks(x: Tensor) -> list[slice]:
    return [slice(r, r + ROWS_AT_ONCE) for r in range(0, x.shape[0], ROWS_AT_ONCE)]


def _clear(e: Tensor, pairs: Pairs, tile: Tile, value: float = 0.0) -> None:
    """Put ``value`` at the tile's excluded pairs."""
    column = pairs.excluded[tile.rows] - tile.col0
    row, k = ((column >= 0) & (column < e.shape[1])).nonzero(as_tuple=True)
    e[row, column[row, k]] = value


def _times_norms(w: Tensor, pairs: Pairs, tile: Tile) -> Tensor:
    if pairs.rows.inner is None or pairs.cols.inner is None:
        return w
    return w.mul_(pairs.rows.inner[tile.rows].unsqueeze(1)).mul_(pairs.cols.inner[tile.cols])
