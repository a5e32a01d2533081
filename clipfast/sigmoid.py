"""The sigmoid family (SigLIP) as one sweep: loss and gradients of the negatives tile by tile, positives apart."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from clipfast.epilogue import Gradients, finish, positive_logits
from clipfast.pairs import Pairs
from clipfast.softmax import accumulate
from clipfast.tiling import Budget, Workspace, tiles

if TYPE_CHECKING:
    from clipfast.backends.torch_tiles import TorchTiles


@dataclass
class Wanted:
    """Which gradients to compute. The scale's comes with either feature's; alone it costs the rows' product."""

    rows: bool
    cols: bool
    scale: bool
    bias: bool = False

    @property
    def any(self) -> bool:
        return self.rows or self.cols or self.scale or self.bias

    def buffers(self, pairs: Pairs) -> tuple[Tensor | None, Tensor | None]:
        """Zeroed accumulators (M, D) and (N, D) for the products that are needed."""
        rows = self.rows or (self.scale and not self.cols)
        left = torch.zeros_like(pairs.rows.x) if rows else None
        if pairs.triangle:
            return left, left
        return left, torch.zeros_like(pairs.cols.x) if self.cols else None


def sweep(
    pairs: Pairs, ops: TorchTiles, budget: Budget, bias: float, row_weight: Tensor | None, wanted: Wanted
) -> tuple[Tensor, Gradients, Tensor]:
    """Each row's ``sum_j -log sigmoid(y_ij z_ij)`` (float64), and the gradients of their sum weighted by ``row_weight``.

    The third result is the bias's gradient. ``row_weight=None`` stands for ones.
    """
    m = pairs.shape[0]
    loss = pairs.row_factor.new_zeros(m)
    weight = torch.zeros_like(loss) if wanted.any else None
    rows, cols = wanted.buffers(pairs)
    workspace = Workspace(pairs.rows.x.new_empty(0), pairs.shape, budget.side)
    factor = None if row_weight is None else row_weight.to(pairs.dtype)
    for tile in tiles(*pairs.shape, budget.side, False):
        w = ops.sigmoid(pairs, tile, bias, factor, loss, weight, workspace.scratch(tile))
        accumulate(pairs, ops, tile, w, rows, cols)
    positive = positive_logits(pairs, ops) + bias
    loss += torch.logaddexp(-positive, torch.zeros_like(positive))
    pull = torch.sigmoid(-positive)
    share = torch.ones_like(pull) if row_weight is None else row_weight.double()
    gradients = finish(pairs, ops, wanted, rows, cols, pull * share, 1.0)
    bias_grad = loss.new_zeros(()) if weight is None else ((weight - pull) * share).sum()
    return loss, gradients, bias_grad
