"""The sigmoid family (SigLIP) in one pass: loss and gradients of the negatives tile by tile, positives apart."""

from __future__ import annotations

import torch
from torch import Tensor

from clipfast.sweep.epilogue import Gradients, positive_logits, with_norms
from clipfast.sweep.gradient_sums import GradientSums, Wanted
from clipfast.sweep.softmax_passes import stored_range
from clipfast.sweep.sweep import ColumnBlock, Sweep
from clipfast.sweep.tile_operations import SigmoidRows


def run(
    sweep: Sweep, bias: Tensor, upstream: Tensor | None, wanted: Wanted, dtype: torch.dtype
) -> tuple[Tensor, Gradients, Tensor]:
    """Each row's ``sum_j -log sigmoid(y_ij z_ij)`` (float64), and the gradients of their sum weighted by ``upstream``.

    The features' gradients are in ``dtype``; the third result is the bias's. ``upstream=None`` stands for ones.
    """
    pairs, bias = sweep.pairs, bias.double()
    positive = positive_logits(pairs, sweep.backend.rows) + bias
    pull = torch.sigmoid(-positive)
    weight = torch.ones_like(pull) if upstream is None else upstream.double()
    stored, alpha = stored_range(weight, sweep)
    sums = GradientSums(sweep, wanted, with_norms(pull * weight, pairs), alpha, dtype)
    loss = torch.zeros_like(pairs.row_scale)
    sigmoid_sum = torch.zeros_like(loss) if wanted.any else None
    factor = stored.to(pairs.dtype).contiguous()  # a sum's gradient is expanded
    rows, workspace = SigmoidRows(bias, factor, loss, sigmoid_sum), sweep.workspace(sweep.kept())

    def visit(block: ColumnBlock) -> None:
        for tile in sweep.tiles(block):
            sums.add(block, tile, sweep.backend.tiles.sigmoid(block.pairs, tile, rows, workspace))

    cols = sweep.for_each_block(visit, sums.outputs)
    loss += torch.logaddexp(-positive, torch.zeros_like(positive))
    by_bias = loss.new_zeros(()) if sigmoid_sum is None else ((sigmoid_sum - pull) * weight).sum()
    return loss, sums.finish(cols), by_bias
