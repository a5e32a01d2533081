"""The sigmoid family (SigLIP) as one sweep: loss and gradients of the negatives tile by tile, positives apart."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
from torch import Tensor

from clipfast.sweep.epilogue import Gradients, positive_logits
from clipfast.sweep.products import Products, Wanted
from clipfast.sweep.softmax_passes import stored_range

if TYPE_CHECKING:
    from clipfast.sweep.sweep import Sweep, Visit


def run(
    sweep: Sweep, bias: Tensor, row_weight: Tensor | None, wanted: Wanted, dtype: torch.dtype
) -> tuple[Tensor, Gradients, Tensor]:
    """Each row's ``sum_j -log sigmoid(y_ij z_ij)`` (float64), and the gradients of their sum weighted by ``row_weight``.

    The features' gradients are in ``dtype``; the third result is the bias's. ``row_weight=None`` stands for ones.
    """
    pairs, bias = sweep.pairs, bias.double()
    loss = torch.zeros_like(pairs.row_factor)
    weight = torch.zeros_like(loss) if wanted.any else None
    positive = positive_logits(pairs, sweep.ops) + bias
    pull = torch.sigmoid(-positive)
    share = torch.ones_like(pull) if row_weight is None else row_weight.double()
    stored, alpha = stored_range(share, sweep)
    products, workspace = Products(sweep, wanted, pull * share, alpha, dtype), sweep.workspace(sweep.kept(False))
    factor = stored.to(pairs.dtype).contiguous()  # a sum's gradient is expanded

    def visit(block: Visit) -> None:
        for tile in sweep.tiles(block.pairs):
            products.add(block, tile, sweep.ops.sigmoid(block.pairs, tile, bias, factor, loss, weight, workspace))

    cols = sweep.tour(visit, products.outs)
    loss += torch.logaddexp(-positive, torch.zeros_like(positive))
    by_bias = loss.new_zeros(()) if weight is None else ((weight - pull) * share).sum()
    return loss, products.finish(cols), by_bias
