"""The sigmoid family (SigLIP) as one sweep: loss and gradients of the negatives tile by tile, positives apart."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
from torch import Tensor

from clipfast.epilogue import Gradients, finish, positive_logits
from clipfast.products import Products, Wanted

if TYPE_CHECKING:
    from clipfast.sweep import Sweep


def run(sweep: Sweep, bias: float, row_weight: Tensor | None, wanted: Wanted) -> tuple[Tensor, Gradients, Tensor]:
    """Each row's ``sum_j -log sigmoid(y_ij z_ij)`` (float64), and the gradients of their sum weighted by ``row_weight``.

    The third result is the bias's gradient. ``row_weight=None`` stands for ones.
    """
    pairs = sweep.pairs
    loss = torch.zeros_like(pairs.row_factor)
    weight = torch.zeros_like(loss) if wanted.any else None
    products, workspace = Products(pairs, sweep.ops.gemm, wanted), sweep.workspace(sweep.kept(False))
    factor = None if row_weight is None else row_weight.to(pairs.dtype).contiguous()  # a sum's gradient is expanded
    for tile in sweep.tiles():
        products.add(tile, sweep.ops.sigmoid(pairs, tile, bias, factor, loss, weight, workspace.scratch(tile)))
    positive = positive_logits(pairs, sweep.ops) + bias
    loss += torch.logaddexp(-positive, torch.zeros_like(positive))
    pull = torch.sigmoid(-positive)
    share = torch.ones_like(pull) if row_weight is None else row_weight.double()
    gradients = finish(pairs, sweep.ops, products, pull * share, 1.0)
    return loss, gradients, loss.new_zeros(()) if weight is None else ((weight - pull) * share).sum()
