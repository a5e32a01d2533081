"""The operations in plain torch: any device, any dtype. Every other backend is measured against these."""

from __future__ import annotations

import torch
from torch import Tensor

from clipfast.common.dtypes import compute_dtype
from clipfast.compute.backend_declaration import Declaration
from clipfast.compute.gemm import TorchGemm
from clipfast.compute.widening import widened
from clipfast.sweep.exact import fill_excluded
from clipfast.sweep.lines import LN2
from clipfast.sweep.pairs import Pairs
from clipfast.sweep.row_operations import ProductOperations, RowFinish
from clipfast.sweep.schedule import Tile
from clipfast.sweep.tile_operations import Backend, LineFactors, PartialSums, SigmoidRows, Workspace

ROWS_AT_ONCE = 1024  # bounds the float64 temporaries of the row-wise operations


class TorchRows:
    """Row operations; features are widened to the compute dtype."""

    def stored(self, features: Tensor) -> Tensor:
        return features.to(compute_dtype(features.dtype)).contiguous()

    def widened(self, rows: Tensor, cols: Tensor | None) -> tuple[Tensor, Tensor | None]:
        return widened(rows, cols)

    def norms(self, x: Tensor, eps: float) -> tuple[Tensor, Tensor, Tensor]:
        norm = self.paired_dots(x, x, None).sqrt_()
        inverse = norm.clamp_min(eps).reciprocal_()
        return norm, inverse, inverse.square() * (norm > eps)

    def paired_dots(self, x: Tensor, y: Tensor, partner: Tensor | None) -> Tensor:
        dots = torch.empty(x.shape[0], dtype=torch.float64, device=x.device)
        for r in _chunks(x):
            other = y[r] if partner is None else y[partner[r].clamp_min(0)]
            dots[r] = (x[r].double() * other.double()).sum(1)
        return dots if partner is None else dots.masked_fill_(partner < 0, 0.0)

    def finish_rows(self, grad: Tensor, finish: RowFinish, out: Tensor) -> Tensor:
        x, y, partner, pull, projection, alpha, scale = finish
        dots = torch.empty(x.shape[0], dtype=torch.float64, device=x.device)
        factor, by = alpha.to(grad.dtype), scale.to(grad.dtype)
        for r in _chunks(x):
            g = grad[r].mul_(factor)
            if y is not None and pull is not None:
                other = y[r] if partner is None else y[partner[r].clamp_min(0)]
                own = pull[r] if partner is None else pull[r].masked_fill(partner[r] < 0, 0.0)
                g -= own.to(g.dtype).unsqueeze(1) * other
            dots[r] = (x[r].double() * g.double()).sum(1)
            if projection is not None:
                g -= (projection[r] * dots[r]).to(g.dtype).unsqueeze(1) * x[r]
            g *= by
        if out.data_ptr() != grad.data_ptr():
            out.copy_(grad)
        return dots


class TorchTiles:
    """Tile operations with a library product and in-place element-wise operations."""

    def __init__(self, products: ProductOperations) -> None:
        self.products = products

    def exp_sums(self, pairs: Pairs, tile: Tile, shift_log2: Tensor, sums: PartialSums, workspace: Workspace) -> None:
        e = self._logits(pairs, tile, workspace.exponentials(tile), shift_log2 * -LN2).exp_()
        fill_excluded(e, pairs, tile, 0.0)
        for total, largest, part, dim in (
            (sums.row_sum, sums.row_max, tile.rows, 1),
            (sums.col_sum, sums.col_max, tile.cols, 0),
        ):
            if total is not None:
                total[part] += e.sum(dim)
            if largest is not None:
                torch.maximum(largest[part], e.amax(dim), out=largest[part])

    def weights(self, pairs: Pairs, tile: Tile, factors: LineFactors, workspace: Workspace) -> Tensor:
        kept, out = workspace.kept(tile), workspace.weights(tile)
        sums = factors.u[tile.rows].unsqueeze(1) + factors.v[tile.cols]
        if kept is not None:
            return _times_inner(torch.mul(kept, sums, out=out), pairs, tile)
        e = self._logits(pairs, tile, out, factors.shift_log2 * -LN2).exp_()
        fill_excluded(e, pairs, tile, 0.0)
        return _times_inner(e.mul_(sums), pairs, tile)

    def sigmoid(self, pairs: Pairs, tile: Tile, rows: SigmoidRows, workspace: Workspace) -> Tensor | None:
        z = self._logits(pairs, tile, workspace.scratch(tile), rows.bias)
        fill_excluded(z, pairs, tile, -torch.inf)
        rows.loss[tile.rows] += torch.logaddexp(z, z.new_zeros(())).sum(1)
        if rows.sigmoid_sum is None:
            return None
        p = z.sigmoid_()
        rows.sigmoid_sum[tile.rows] += p.sum(1)
        return _times_inner(p.mul_(rows.upstream[tile.rows].unsqueeze(1)), pairs, tile)

    def _logits(self, pairs: Pairs, tile: Tile, out: Tensor, add: Tensor) -> Tensor:
        z = self.products.scores(pairs.rows.x[tile.rows], pairs.cols.x[tile.cols], out)
        if pairs.col_inverse_norm is not None:
            z.mul_(pairs.col_inverse_norm[tile.cols])
        return z.mul_(pairs.row_scale[tile.rows].to(z.dtype).unsqueeze(1)).add_(add)


def _chunks(x: Tensor) -> list[slice]:
    return [slice(r, r + ROWS_AT_ONCE) for r in range(0, x.shape[0], ROWS_AT_ONCE)]


def _times_inner(w: Tensor, pairs: Pairs, tile: Tile) -> Tensor:
    if pairs.rows.inner is None or pairs.cols.inner is None:
        return w
    return w.mul_(pairs.rows.inner[tile.rows].unsqueeze(1)).mul_(pairs.cols.inner[tile.cols])


def _make() -> Backend:
    products = TorchGemm()
    return Backend("torch", TorchRows(), TorchTiles(products), products)


TORCH = Declaration("torch", lambda query: None, _make, chosen_on=("cpu", "accelerator"))
