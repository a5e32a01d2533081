"""The softmax family as two sweeps over tiles (CLIP, InfoNCE, NT-Xent).

Pass 1 sums ``e_ij = exp(z_ij - shift)`` over the *negatives* of each line, with one shift for the whole batch, so that
partial sums of any tiles simply add. The positives are handled apart in float64, which keeps a converged loss (1e-8)
and its gradient at full relative precision, where ``logsumexp - positive`` cancels. Pass 2 forms
``W_ij = e_ij (u_i + v_j)`` tile by tile and multiplies it with the features.

A *line* is a row or a column with a softmax of its own: the M rows, then, for CLIP's two directions, the N columns.
Vectors over lines keep both directions in one piece.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, NamedTuple

import torch
from torch import Tensor

from clipfast import exact
from clipfast.pairs import Pairs
from clipfast.tiling import Budget, Tile, Workspace, tiles

if TYPE_CHECKING:
    from clipfast.backends.torch_tiles import TorchTiles
    from clipfast.products import Products

EXACT = math.inf  # in place of a shift: the sums came from the exact path, and no tile was kept


@dataclass
class Sums:
    """Pass 1's results in units of exp(shift), as views of one vector of lines. A triangle's directions are one."""

    row_sum: Tensor
    col_sum: Tensor | None
    row_best: Tensor | None
    col_best: Tensor | None
    triangle: bool

    @classmethod
    def of(cls, pairs: Pairs, sums: Tensor, best: Tensor | None) -> Sums:
        (row_sum, col_sum), (row_best, col_best) = pairs.split(sums), pairs.split(best)
        assert row_sum is not None
        return cls(row_sum, col_sum, row_best, col_best, pairs.triangle)

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


class Lines(NamedTuple):
    """What pass 1 leaves of each line: log-sum-exp and largest of its negatives, as natural logarithms, float64."""

    shift: float
    negatives: Tensor
    best: Tensor | None


def choose_shift(pairs: Pairs) -> float:
    """The smallest shift, in whole base-2 steps, under which no sum of ``cols`` exponentials overflows."""
    bound = pairs.bound
    if math.isnan(bound):
        return math.nan
    headroom = math.log(torch.finfo(pairs.dtype).max) - 2 - math.log(max(pairs.shape))
    return math.log(2) * max(0, math.ceil((bound - headroom) / math.log(2)))


def _underflow(pairs: Pairs, shift: float, sums: Tensor) -> bool:
    """Whether a sum is so small that terms of it may have been lost."""
    info = torch.finfo(pairs.dtype)
    smallest = max(pairs.shape) * info.tiny / info.eps
    return -pairs.bound - shift < math.log(smallest) and bool((sums < smallest).any())


def forward(pairs: Pairs, ops: TorchTiles, kept: Tensor, budget: Budget, best: bool) -> Lines:
    """Pass 1. ``kept`` receives the exponential tiles that fit; ``best`` asks for the largest negatives."""
    shift = choose_shift(pairs)
    total = pairs.row_factor.new_zeros(pairs.lines)
    top = pairs.rows.x.new_zeros(pairs.lines) if best else None
    sums = Sums.of(pairs, total, top)
    workspace = Workspace(kept, pairs.shape, budget.side)
    for tile in tiles(*pairs.shape, budget.side, pairs.triangle):
        ops.exp_sums(pairs, tile, shift, sums, workspace.place(tile))
    if _underflow(pairs, shift, total):
        return Lines(EXACT, *exact.forward(pairs, budget))
    return Lines(shift, total.log_().add_(shift), None if top is None else top.double().log_().add_(shift))


def weights(pairs: Pairs, shift: float, lse: Tensor, share: Tensor) -> Weights:
    """``u_i = share_i exp(shift - lse_i)`` and ``v_j`` likewise; shares are the upstream gradients, 0 where unpaired."""
    if shift == EXACT:
        (u, v), (row_lse, col_lse) = pairs.split(share), pairs.split(lse.masked_fill(share == 0, torch.inf))
    else:
        scaled = share * (shift - lse).exp_()
        unpaired = pairs.unpaired_lines()
        u, v = pairs.split((scaled if unpaired is None else scaled.masked_fill_(unpaired, 0.0)).to(pairs.dtype))
        row_lse = col_lse = None
    assert u is not None
    return Weights(shift, u, u.new_zeros(pairs.shape[1]) if v is None else v, row_lse, col_lse)


def backward(pairs: Pairs, ops: TorchTiles, kept: Tensor, budget: Budget, w: Weights, products: Products) -> None:
    """Pass 2: every tile's weights, given to ``products``."""
    workspace = Workspace(kept, pairs.shape, budget.side)
    for tile in tiles(*pairs.shape, budget.side, pairs.triangle):
        exponentials, out = workspace.find(tile)
        if w.shift == EXACT:
            tile_weights = exact.softmax_weights(pairs, tile, w, out)
        else:
            tile_weights = ops.softmax_weights(pairs, tile, w, exponentials, out)
        products.add(tile, tile_weights)
