"""The slower path for batches whose logits no single float32 window covers.

Logits in float64, and a shift per row and per column (their largest negative), so that every finite input gives
the right sums. The tiles' ``guarded`` takes it when a sum of the fast path may have underflowed.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from clipfast.distributed.exchange import Out
from clipfast.sweep.pairs import Pairs
from clipfast.sweep.tiling import SMALLEST_SIDE, Tile, strips, tiles

if TYPE_CHECKING:
    from clipfast.sweep.softmax_passes import Weights
    from clipfast.sweep.sweep import Sweep, Visit


ROWS_AT_ONCE = 256  # float64 temporaries of pass 2: 2 MiB each beside a tile 1024 wide


def _logits(pairs: Pairs, tile: Tile) -> Tensor:
    z = pairs.rows.x[tile.rows].double() @ pairs.cols.x[tile.cols].double().t()
    z.mul_(pairs.row_factor[tile.rows].unsqueeze(1))
    if pairs.cols.inverse_norm is not None:
        z.mul_(pairs.cols.inverse_norm[tile.cols])
    column = pairs.excluded[tile.rows] - tile.col0
    row, k = ((column >= 0) & (column < z.shape[1])).nonzero(as_tuple=True)
    z[row, column[row, k]] = -torch.inf
    return z


def forward(sweep: Sweep) -> tuple[Tensor, Tensor]:
    """Each line's log-sum-exp and largest of its negatives, float64; -inf for a line without negatives."""
    pairs = sweep.pairs
    row_best = pairs.row_factor.new_full((pairs.shape[0],), -torch.inf)
    row_sum = torch.zeros_like(row_best)

    def largest(block: Visit) -> None:
        col_best = row_best if block.pairs.triangle else block.outs[0] if block.outs else None
        for tile, z in _tiles(sweep, block):
            row_best[tile.rows] = torch.maximum(row_best[tile.rows], z.amax(1))
            if col_best is not None and block.pairs.feeds_columns(tile):
                col_best[tile.cols] = torch.maximum(col_best[tile.cols], z.amax(0))

    col_best = sweep.tour(largest, [Out(torch.float64, largest=True, fill=-torch.inf)] if pairs.both else [])

    def sums(block: Visit) -> None:
        best, total = (row_best, row_sum) if block.pairs.triangle else (*block.carried, *block.outs) or (None, None)
        for tile, z in _tiles(sweep, block):
            row_sum[tile.rows] += (z - _finite(row_best[tile.rows]).unsqueeze(1)).exp_().sum(1)
            if total is not None and best is not None and block.pairs.feeds_columns(tile):
                total[tile.cols] += (z - _finite(best[tile.cols])).exp_().sum(0)

    col_sum = sweep.tour(sums, [Out(torch.float64)] if pairs.both else [], tuple(col_best))
    best, total = torch.cat([row_best, *col_best]), torch.cat([row_sum, *col_sum])
    return total.log_().add_(_finite(best)), best


def _tiles(sweep: Sweep, block: Visit) -> Iterator[tuple[Tile, Tensor]]:
    """Float64 tiles of logits; they and their temporaries stay within the same workspace."""
    side = max(SMALLEST_SIDE, sweep.budget.side // 2)
    for tile in tiles(*block.pairs.shape, side, block.pairs.triangle):
        yield tile, _logits(block.pairs, tile)


def softmax_weights(pairs: Pairs, tile: Tile, w: Weights, out: Tensor) -> Tensor:
    """``W_ij = share_i exp(z_ij - lse_i) + share_j exp(z_ij - lse_j)``, times the inverse norms."""
    (_, row_share, row_lse), (_, col_share, col_lse) = w.rows, w.cols
    assert row_share is not None
    assert row_lse is not None
    for row0, row1 in strips(tile.shape[0], ROWS_AT_ONCE):
        part = Tile(tile.row0 + row0, tile.row0 + row1, tile.col0, tile.col1)
        z = _logits(pairs, part)
        p = (z - row_lse[part.rows].unsqueeze(1)).exp_().mul_(row_share[part.rows].unsqueeze(1))
        if col_lse is not None and col_share is not None:
            p += z.sub_(col_lse[part.cols]).exp_().mul_(col_share[part.cols])
        if pairs.rows.inner is not None and pairs.cols.inner is not None:
            p.mul_(pairs.rows.inner[part.rows].unsqueeze(1)).mul_(pairs.cols.inner[part.cols])
        out[row0:row1] = p
    return out


def _finite(best: Tensor) -> Tensor:
    return torch.where(best.isfinite(), best, torch.zeros_like(best))
