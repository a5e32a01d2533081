"""Tile operations in plain torch: any device, any dtype. Also what every other backend is measured against."""

from __future__ import annotations

import torch
from torch import Tensor

from clipfast.gemm import TorchGemm
from clipfast.pairs import Pairs
from clipfast.softmax import Sums, Weights
from clipfast.tiling import Tile

ROWS_AT_ONCE = 1024  # bounds the float64 temporaries of the row-wise operations


class TorchTiles:
    """Implements the tile protocol (see ``registry``) with ``torch.mm`` and in-place element-wise operations."""

    name = "torch"
    gemm = TorchGemm()

    def scores(self, pairs: Pairs, tile: Tile, out: Tensor) -> Tensor:
        return self.gemm.scores(pairs.rows.x[tile.rows], pairs.cols.x[tile.cols], out)

    def exp_sums(self, pairs: Pairs, tile: Tile, shift: float, sums: Sums, out: Tensor, keep: bool) -> None:
        e = self._logits(pairs, tile, out, -shift).exp_()
        _clear(e, pairs, tile)
        sums.row_sum[tile.rows] += e.sum(1)
        if sums.row_best is not None:
            torch.maximum(sums.row_best[tile.rows], e.amax(1), out=sums.row_best[tile.rows])
        if sums.col_sum is not None and sums.wants_cols(tile):
            sums.col_sum[tile.cols] += e.sum(0)
            if sums.col_best is not None:
                torch.maximum(sums.col_best[tile.cols], e.amax(0), out=sums.col_best[tile.cols])

    def softmax_weights(self, pairs: Pairs, tile: Tile, weights: Weights, kept: Tensor | None, out: Tensor) -> Tensor:
        if kept is not None:
            sums = weights.rows[tile.rows].unsqueeze(1) + weights.cols[tile.cols]
            return _times_norms(torch.mul(kept, sums, out=out), pairs, tile)
        e = self._logits(pairs, tile, out, -weights.shift).exp_()
        _clear(e, pairs, tile)
        return _times_norms(e.mul_(weights.rows[tile.rows].unsqueeze(1) + weights.cols[tile.cols]), pairs, tile)

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
        z = self._logits(pairs, tile, out, bias)
        _clear(z, pairs, tile, -torch.inf)
        loss[tile.rows] += torch.logaddexp(z, z.new_zeros(())).sum(1)
        if weight is None:
            return z
        p = z.sigmoid_()
        weight[tile.rows] += p.sum(1)
        if row_weight is not None:
            p.mul_(row_weight[tile.rows].unsqueeze(1))
        return _times_norms(p, pairs, tile)

    def paired_dots(self, x: Tensor, y: Tensor, partner: Tensor | None) -> Tensor:
        """``(x.double() * y[partner].double()).sum(1)``, 0 where the partner is -1."""
        dots = torch.empty(x.shape[0], dtype=torch.float64, device=x.device)
        for r in _chunks(x):
            other = y[r] if partner is None else y[partner[r].clamp_min(0)]
            dots[r] = (x[r].double() * other.double()).sum(1)
        return dots if partner is None else dots.masked_fill_(partner < 0, 0.0)

    def finish_rows(
        self,
        grad: Tensor,
        x: Tensor,
        y: Tensor | None,
        partner: Tensor | None,
        coef: Tensor | None,
        projection: Tensor | None,
        alpha: float,
        scale: float,
    ) -> Tensor:
        """In place ``g = alpha * grad - coef * y[partner]``, ``grad = scale * (g - projection * <x, g> * x)``."""
        dots = torch.empty(x.shape[0], dtype=torch.float64, device=x.device)
        for r in _chunks(x):
            g = grad[r].mul_(alpha)
            if y is not None and coef is not None:
                other = y[r] if partner is None else y[partner[r].clamp_min(0)]
                own = coef[r] if partner is None else coef[r].masked_fill(partner[r] < 0, 0.0)
                g -= own.to(g.dtype).unsqueeze(1) * other
            dots[r] = (x[r].double() * g.double()).sum(1)
            if projection is not None:
                g -= (projection[r] * dots[r]).to(g.dtype).unsqueeze(1) * x[r]
            g *= scale
        return dots

    def _logits(self, pairs: Pairs, tile: Tile, out: Tensor, add: float) -> Tensor:
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
    if pairs.row_norm is None or pairs.col_factor is None:
        return w
    return w.mul_(pairs.row_norm[tile.rows].unsqueeze(1)).mul_(pairs.col_factor[tile.cols])
