"""The softmax family as two sweeps over tiles (CLIP, InfoNCE, NT-Xent).

Pass 1 sums ``e_ij = exp(z_ij - shift)`` over each row's (and column's) *negatives*, with one shift for the whole
batch, so that partial sums of any tiles simply add. The positives are handled apart in float64, which keeps a
converged loss (1e-8) and its gradient at full relative precision, where ``logsumexp - positive`` cancels.
Pass 2 forms ``W_ij = e_ij (u_i + v_j)`` tile by tile and multiplies it with the features.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from clipfast import exact
from clipfast.pairs import Pairs
from clipfast.tiling import Budget, Tile, Workspace, tiles

if TYPE_CHECKING:
    from clipfast.backends.torch_tiles import TorchTiles

EXACT = math.inf  # in place of a shift: the sums came from the exact path, and no tile was kept


@dataclass
class Sums:
    """Pass 1's results in units of exp(shift). For a triangle both directions share one vector."""

    row_sum: Tensor
    col_sum: Tensor | None
    row_best: Tensor | None
    col_best: Tensor | None
    triangle: bool

    @classmethod
    def zeros(cls, pairs: Pairs, both: bool, best: bool) -> Sums:
        m, n = pairs.shape
        new = pairs.rows.x.new_zeros
        row, row_best = new(m, dtype=torch.float64), new(m) if best else None
        if pairs.triangle:
            return cls(row, row, row_best, row_best, True)
        return cls(row, new(n, dtype=torch.float64) if both else None, row_best, new(n) if best and both else None, False)

    def wants_cols(self, tile: Tile) -> bool:
        return self.col_sum is not None and not (self.triangle and tile.on_diagonal)


@dataclass
class Weights:
    """Pass 2's ``u`` (M,) and ``v`` (N,); on the exact path the bare shares and the log-sum-exps that go with them."""

    shift: float
    rows: Tensor
    cols: Tensor
    row_lse: Tensor | None = None
    col_lse: Tensor | None = None


@dataclass
class State:
    """What pass 1 leaves: log-sum-exps and best negatives as natural logarithms, float64."""

    shift: float
    log_row: Tensor
    log_col: Tensor | None
    row_best: Tensor | None
    col_best: Tensor | None


def choose_shift(pairs: Pairs) -> float:
    """The smallest shift, in whole base-2 steps, under which no sum of ``cols`` exponentials overflows."""
    bound = pairs.bound
    if math.isnan(bound):
        return math.nan
    headroom = math.log(torch.finfo(pairs.dtype).max) - 2 - math.log(max(pairs.shape))
    return math.log(2) * max(0, math.ceil((bound - headroom) / math.log(2)))


def _floor(pairs: Pairs, shift: float) -> float | None:
    """Sums below this may have lost terms to underflow; None when the bound shows that none can be."""
    info, n = torch.finfo(pairs.dtype), max(pairs.shape)
    smallest = n * info.tiny / info.eps
    return None if -pairs.bound - shift > math.log(smallest) else smallest


def forward(pairs: Pairs, ops: TorchTiles, kept: Tensor, budget: Budget, both: bool, best: bool) -> State:
    """Pass 1. ``kept`` receives the exponential tiles that fit."""
    shift = choose_shift(pairs)
    sums = Sums.zeros(pairs, both, best)
    workspace = Workspace(kept, pairs.shape, budget.side)
    for tile in tiles(*pairs.shape, budget.side, pairs.triangle):
        ops.exp_sums(pairs, tile, shift, sums, workspace.place(tile))
    floor = _floor(pairs, shift)
    if floor is not None and (
        bool((sums.row_sum < floor).any()) or (sums.col_sum is not None and bool((sums.col_sum < floor).any()))
    ):
        return exact.forward(pairs, budget, both)
    return State(
        shift,
        sums.row_sum.log_().add_(shift),
        None if pairs.triangle or sums.col_sum is None else sums.col_sum.log_().add_(shift),
        None if sums.row_best is None else sums.row_best.double().log_().add_(shift),
        None if sums.col_best is None else sums.col_best.double().log_().add_(shift),
    )


def weights(
    pairs: Pairs, shift: float, row_lse: Tensor, col_lse: Tensor | None, row_share: Tensor, col_share: Tensor | None
) -> Weights:
    """``u_i = share_i exp(shift - lse_i)`` and ``v_j`` likewise; shares are the upstream gradients, 0 where unpaired."""

    def scaled(share: Tensor, lse: Tensor) -> Tensor:
        return torch.where(share == 0, share, share * (shift - lse).exp()).to(pairs.dtype)

    if shift == EXACT:
        return exact.weights(pairs, row_share, row_lse, col_share, col_lse)
    u = scaled(row_share, row_lse)
    if pairs.triangle:
        return Weights(shift, u, u)
    v = u.new_zeros(pairs.shape[1]) if col_share is None or col_lse is None else scaled(col_share, col_lse)
    return Weights(shift, u, v)


def backward(
    pairs: Pairs, ops: TorchTiles, kept: Tensor, budget: Budget, w: Weights, rows: Tensor | None, cols: Tensor | None
) -> None:
    """Pass 2: add ``W b`` into ``rows`` and ``W^T a`` into ``cols``, each where it is wanted (not None)."""
    workspace = Workspace(kept, pairs.shape, budget.side)
    for tile in tiles(*pairs.shape, budget.side, pairs.triangle):
        exponentials, out = workspace.find(tile)
        if w.shift == EXACT:
            tile_weights = exact.softmax_weights(pairs, tile, w, out)
        else:
            tile_weights = ops.softmax_weights(pairs, tile, w, exponentials, out)
        accumulate(pairs, ops, tile, tile_weights, rows, cols)


def accumulate(pairs: Pairs, ops: TorchTiles, tile: Tile, w: Tensor, rows: Tensor | None, cols: Tensor | None) -> None:
    """The two products of one tile. A triangle's mirror image is its tile's transpose, except on the diagonal."""
    if rows is not None:
        ops.gemm.add_rows(rows[tile.rows], w, pairs.cols.x[tile.cols])
    if cols is not None and not (pairs.triangle and tile.on_diagonal):
        ops.gemm.add_cols(cols[tile.cols], w, pairs.rows.x[tile.rows])
