"""The sigmoid family (SigLIP) as one sweep: loss and gradients of the negatives tile by tile, positives apart."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
from torch import Tensor

from clipfast.epilogue import Gradients, finish, positive_logits
from clipfast.pairs import Pairs
from clipfast.products import Products, Wanted
from clipfast.tiling import Budget, Workspace, tiles

if TYPE_CHECKING:
    from clipfast.backends.torch_tiles import TorchTiles


def sweep(
    pairs: Pairs, ops: TorchTiles, budget: Budget, bias: float, row_weight: Tensor | None, wanted: Wanted
) -> tuple[Tensor, Gradients, Tensor]:
    """Each row's ``sum_j -log sigmoid(y_ij z_ij)`` (float64), and the gradients of their sum weighted by ``row_weight``.

    The third result is the bias's gradient. ``row_weight=None`` stands for ones.
    """
    m = pairs.shape[0]
    loss = pairs.row_factor.new_zeros(m)
    weight = torch.zeros_like(loss) if wanted.any else None
    products = Products(pairs, ops.gemm, wanted)
    workspace = Workspace(pairs.rows.x.new_empty(0), pairs.shape, budget.side)
    factor = None if row_weight is None else row_weight.to(pairs.dtype)
    for tile in tiles(*pairs.shape, budget.side, False):
        w = ops.sigmoid(pairs, tile, bias, factor, loss, weight, workspace.scratch(tile))
        products.add(tile, w)
    positive = positive_logits(pairs, ops) + bias
    loss += torch.logaddexp(-positive, torch.zeros_like(positive))
    pull = torch.sigmoid(-positive)
    share = torch.ones_like(pull) if row_weight is None else row_weight.double()
    gradients = finish(pairs, ops, products, pull * share, 1.0)
    bias_grad = loss.new_zeros(()) if weight is None else ((weight - pull) * share).sum()
    return loss, gradients, bias_grad
