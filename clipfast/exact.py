"""The slower path for batches whose logits no single float32 window covers.

Logits in float64, and a shift per row and per column (their largest negative), so that every finite input gives
the right sums. ``softmax.forward`` takes it when a sum of the fast path may have underflowed.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
from torch import Tensor

from clipfast.pairs import Pairs
from clipfast.tiling import Budget, Tile, strips, tiles

if TYPE_CHECKING:
    from clipfast.softmax import State, Weights


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


def forward(pairs: Pairs, budget: Budget, both: bool) -> State:
    """The same results as the fast pass 1; a row without negatives gets -inf."""
    from clipfast.softmax import EXACT, State

    m, n = pairs.shape
    side = max(64, budget.side // 2)  # float64 tiles and their temporaries within the same workspace
    new = pairs.row_factor.new_full
    row_best, row_sum = new((m,), -torch.inf), new((m,), 0.0)
    col_best, col_sum = (row_best, row_sum) if pairs.triangle else (new((n,), -torch.inf), new((n,), 0.0))

    def wants_cols(tile: Tile) -> bool:
        return both and not (pairs.triangle and tile.on_diagonal)

    for tile in tiles(m, n, side, pairs.triangle):
        z = _logits(pairs, tile)
        row_best[tile.rows] = torch.maximum(row_best[tile.rows], z.amax(1))
        if wants_cols(tile):
            col_best[tile.cols] = torch.maximum(col_best[tile.cols], z.amax(0))
    for tile in tiles(m, n, side, pairs.triangle):
        z = _logits(pairs, tile)
        row_sum[tile.rows] += (z - _finite(row_best[tile.rows]).unsqueeze(1)).exp_().sum(1)
        if wants_cols(tile):
            col_sum[tile.cols] += (z - _finite(col_best[tile.cols])).exp_().sum(0)
    log_row = row_sum.log() + _finite(row_best)
    log_col = None if not both or pairs.triangle else col_sum.log() + _finite(col_best)
    return State(EXACT, log_row, log_col, row_best, col_best if both else None)


def weights(pairs: Pairs, row_share: Tensor, row_lse: Tensor, col_share: Tensor | None, col_lse: Tensor | None) -> Weights:
    """The shares as they are; an infinite log-sum-exp where a share is 0, so that no 0 * inf arises."""
    from clipfast.softmax import EXACT, Weights

    row_lse = row_lse.masked_fill(row_share == 0, torch.inf)
    if pairs.triangle:
        return Weights(EXACT, row_share, row_share, row_lse, row_lse)
    if col_share is None or col_lse is None:
        return Weights(EXACT, row_share, row_share, row_lse, None)
    return Weights(EXACT, row_share, col_share, row_lse, col_lse.masked_fill(col_share == 0, torch.inf))


def softmax_weights(pairs: Pairs, tile: Tile, w: Weights, out: Tensor) -> Tensor:
    """``W_ij = share_i exp(z_ij - lse_i) + share_j exp(z_ij - lse_j)``, times the inverse norms."""
    assert w.row_lse is not None
    for row0, row1 in strips(tile.shape[0], ROWS_AT_ONCE):
        part = Tile(tile.row0 + row0, tile.row0 + row1, tile.col0, tile.col1)
        z = _logits(pairs, part)
        p = (z - w.row_lse[part.rows].unsqueeze(1)).exp_().mul_(w.rows[part.rows].unsqueeze(1))
        if w.col_lse is not None:
            p += z.sub_(w.col_lse[part.cols]).exp_().mul_(w.cols[part.cols])
        if pairs.rows.inverse_norm is not None and pairs.cols.inverse_norm is not None:
            p.mul_(pairs.rows.inverse_norm[part.rows].unsqueeze(1)).mul_(pairs.cols.inverse_norm[part.cols])
        out[row0:row1] = p
    return out


def _finite(best: Tensor) -> Tensor:
    return torch.where(best.isfinite(), best, torch.zeros_like(best))
