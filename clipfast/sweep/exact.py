"""The slower path for batches whose logits no single float32 window covers.

Logits in float64, and a shift per row and per column (their largest negative), so that every finite input gives the right
sums. The softmax passes take it when a sum of the fast path may have underflowed.
"""

from __future__ import annotations

from collections.abc import Iterator

import torch
from torch import Tensor

from clipfast.distributed.exchange import ColumnOutput
from clipfast.sweep.pairs import Pairs
from clipfast.sweep.schedule import Tile, strips
from clipfast.sweep.sweep import ColumnBlock, Sweep
from clipfast.sweep.tile_operations import LineFactors

EXACT_ROWS_AT_ONCE = 256  # float64 temporaries of pass 2: 2 MiB each beside a tile 1024 wide


def fill_excluded(values: Tensor, pairs: Pairs, tile: Tile, value: float) -> None:
    """Put ``value`` at the tile's excluded pairs."""
    column = pairs.excluded[tile.rows] - tile.col0
    row, k = ((column >= 0) & (column < values.shape[1])).nonzero(as_tuple=True)
    values[row, column[row, k]] = value


def logits(pairs: Pairs, tile: Tile) -> Tensor:
    """The tile's logits in float64, -inf at excluded pairs."""
    z = pairs.rows.x[tile.rows].double() @ pairs.cols.x[tile.cols].double().t()
    z.mul_(pairs.row_scale[tile.rows].unsqueeze(1))
    if pairs.cols.inverse_norm is not None:
        z.mul_(pairs.cols.inverse_norm[tile.cols])
    fill_excluded(z, pairs, tile, -torch.inf)
    return z


def forward(sweep: Sweep) -> tuple[Tensor, Tensor]:
    """Each line's log-sum-exp and largest of its negatives, float64; -inf for a line without negatives."""
    pairs = sweep.pairs
    row_max = pairs.row_scale.new_full((pairs.shape[0],), -torch.inf)
    row_sum = torch.zeros_like(row_max)

    def maxima(block: ColumnBlock) -> None:
        col_max = row_max if block.pairs.triangle else block.outputs[0] if block.outputs else None
        for tile, z in _tiles(sweep, block):
            row_max[tile.rows] = torch.maximum(row_max[tile.rows], z.amax(1))
            if col_max is not None and block.feeds_columns(tile):
                col_max[tile.cols] = torch.maximum(col_max[tile.cols], z.amax(0))

    col_max = sweep.for_each_block(maxima, [ColumnOutput(torch.float64, largest=True, fill=-torch.inf)] if pairs.both else [])

    def sums(block: ColumnBlock) -> None:
        largest, total = (row_max, row_sum) if block.pairs.triangle else (*block.inputs, *block.outputs) or (None, None)
        for tile, z in _tiles(sweep, block):
            row_sum[tile.rows] += (z - _finite(row_max[tile.rows]).unsqueeze(1)).exp_().sum(1)
            if total is not None and largest is not None and block.feeds_columns(tile):
                total[tile.cols] += (z - _finite(largest[tile.cols])).exp_().sum(0)

    col_sum = sweep.for_each_block(sums, [ColumnOutput(torch.float64)] if pairs.both else [], tuple(col_max))
    largest, total = torch.cat([row_max, *col_max]), torch.cat([row_sum, *col_sum])
    return total.log_().add_(_finite(largest)), largest


def weights(pairs: Pairs, tile: Tile, factors: LineFactors, out: Tensor) -> Tensor:
    """``W_ij = upstream_i exp(z_ij - lse_i) + upstream_j exp(z_ij - lse_j)``, times the inner inverse norms."""
    assert factors.exact is not None
    row_upstream, row_lse, col_upstream, col_lse = factors.exact
    for row0, row1 in strips(tile.shape[0], EXACT_ROWS_AT_ONCE):
        part = Tile(tile.row0 + row0, tile.row0 + row1, tile.col0, tile.col1)
        z = logits(pairs, part)
        p = (z - row_lse[part.rows].unsqueeze(1)).exp_().mul_(row_upstream[part.rows].unsqueeze(1))
        if col_lse is not None and col_upstream is not None:
            p += z.sub_(col_lse[part.cols]).exp_().mul_(col_upstream[part.cols])
        if pairs.rows.inner is not None and pairs.cols.inner is not None:
            p.mul_(pairs.rows.inner[part.rows].unsqueeze(1)).mul_(pairs.cols.inner[part.cols])
        out[row0:row1] = p
    return out


def _tiles(sweep: Sweep, block: ColumnBlock) -> Iterator[tuple[Tile, Tensor]]:
    """Float64 tiles of logits; they and their temporaries stay within the same workspace."""
    for tile in sweep.schedule.exact_tiles(block.number):
        yield tile, logits(block.pairs, tile)


def _finite(largest: Tensor) -> Tensor:
    return torch.where(largest.isfinite(), largest, torch.zeros_like(largest))
