"""The softmax family as two passes over tiles (CLIP, InfoNCE, NT-Xent).

Pass 1 sums ``e_ij = exp(z_ij - shift)`` over the *negatives* of each line, with one shift for the whole batch, so that
partial sums of any tiles simply add; lines.py closes them with the positives. Pass 2 forms ``W_ij = e_ij (u_i + v_j)`` tile
by tile and multiplies it with the features.

The shift is a whole number of powers of two, ``shift = shift_log2 * log(2)``. Where one float32 window under it does not hold
the sums, exact.py takes over.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from clipfast.distributed.exchange import ColumnOutput
from clipfast.sweep import exact
from clipfast.sweep.epilogue import Gradients, positive_logits, with_norms
from clipfast.sweep.gradient_sums import GradientSums, Wanted
from clipfast.sweep.lines import EXACT, LN2, LineFunction, LineResults, choose_shift, close, line_factor, underflowed
from clipfast.sweep.pairs import Pairs
from clipfast.sweep.schedule import Tile
from clipfast.sweep.sweep import ColumnBlock, Sweep
from clipfast.sweep.tile_operations import Backend, ExactLines, LineFactors, PartialSums, Workspace


def forward(sweep: Sweep, function: LineFunction, kept: Tensor, maxima: bool) -> LineResults:
    """Pass 1. ``kept`` receives the exponentials that have a slot; ``maxima`` asks for the largest negatives."""
    pairs = sweep.pairs
    shift_log2, negatives, max_negative = _negatives(sweep, kept, maxima)
    positive = pairs.to_lines(positive_logits(pairs, sweep.backend.rows))
    loss, lse, positive = close(function, negatives, positive, pairs.unpaired_lines())
    return LineResults(shift_log2, loss, lse, positive, max_negative)


def _negatives(sweep: Sweep, kept: Tensor, maxima: bool) -> tuple[Tensor, Tensor, Tensor | None]:
    """The shift, and each line's log-sum-exp and largest of its negatives."""
    pairs, extent = sweep.pairs, sweep.exchange.extent
    shift_log2, workspace = choose_shift(pairs, extent), sweep.workspace(kept)
    outputs = [ColumnOutput(torch.float64), ColumnOutput(pairs.dtype, largest=True)][: 2 if maxima else 1]
    rows = [output.new(pairs.shape[0], pairs.row_scale) for output in outputs]

    def visit(block: ColumnBlock) -> None:
        for tile in sweep.tiles(block):
            cols = (rows if block.pairs.triangle else block.outputs) if block.feeds_columns(tile) else []
            sweep.backend.tiles.exp_sums(block.pairs, tile, shift_log2, partial_sums(rows, cols), workspace)

    cols = sweep.for_each_block(visit, outputs if pairs.both else ())
    total, *largest = (torch.cat(side) for side in zip(rows, cols, strict=True)) if pairs.both else rows
    flag = underflowed(pairs, extent, shift_log2, total)
    max_negative = largest[0].double().log_().add_(shift_log2 * LN2) if largest else None
    return _guarded(sweep, flag, shift_log2, total.log_().add_(shift_log2 * LN2), max_negative)


def partial_sums(rows: list[Tensor], cols: list[Tensor]) -> PartialSums:
    """Of the rows' and the columns' sums and, where asked for, maxima."""
    row_sum, row_max, *_ = (*rows, None)
    col_sum, col_max, *_ = (*cols, None, None)
    assert row_sum is not None
    return PartialSums(row_sum, row_max, col_sum, col_max)


def _guarded(
    sweep: Sweep, flag: Tensor, shift_log2: Tensor, negatives: Tensor, max_negative: Tensor | None
) -> tuple[Tensor, Tensor, Tensor | None]:
    """Pass 1's results, from the exact path where ``flag``, on any rank, says that one window does not hold them.

    In a group the host looks at the flag even on an accelerator: the exact path exchanges features once more.
    """
    device_exact = sweep.backend.device_exact
    if device_exact is not None and sweep.exchange.ranks == 1:
        device_exact.replace_underflowed(sweep.pairs, flag, negatives, max_negative)
        return torch.where(flag, EXACT, shift_log2), negatives, max_negative
    if not float(sweep.exchange.largest(flag.double())):
        return shift_log2, negatives, max_negative
    return torch.full_like(shift_log2, EXACT), *exact.forward(sweep)


class Upstream(NamedTuple):
    """Each line's upstream gradient, ``weight`` (L,) float64, and pass 1's losses, normalisers, shift and kept exponentials."""

    weight: Tensor
    loss: Tensor
    lse: Tensor
    shift_log2: Tensor
    kept: Tensor


def backward(
    sweep: Sweep, function: LineFunction, upstream: Upstream, wanted: Wanted, overwrite: bool, dtype: torch.dtype
) -> Gradients:
    """Pass 2: gradients in ``dtype`` of the lines' weighted losses. ``overwrite``: the weights take the exponentials' place."""
    pairs, unpaired, weight = sweep.pairs, sweep.pairs.unpaired_lines(), upstream.weight
    if unpaired is not None:
        weight = weight.masked_fill(unpaired, 0.0)
    pull = pairs.sum_of_lines(weight * function.pull(upstream.loss))
    weight, alpha = stored_range(weight, sweep)
    factors = _AllFactors.of(pairs, upstream.shift_log2, weight, upstream.lse)
    sums = GradientSums(sweep, wanted, with_norms(pull, pairs), alpha, dtype)
    weigh = _Weigh(sweep.backend, sweep.workspace(upstream.kept, overwrite), upstream.shift_log2)

    def visit(block: ColumnBlock) -> None:
        there = factors.against(block.inputs)
        for tile in sweep.tiles(block):
            sums.add(block, tile, weigh(block.pairs, tile, there))

    return sums.finish(sweep.for_each_block(visit, sums.outputs, factors.of_columns))


def stored_range(weight: Tensor, sweep: Sweep) -> tuple[Tensor, Tensor]:
    """``weight / alpha`` and ``alpha`` (0-d): the largest is then 1, or 2^14 for float16, whatever ``weight``'s own size."""
    largest = sweep.exchange.largest(weight.abs().max())
    gain = 2.0**14 if sweep.pairs.rows.x.dtype == torch.float16 else 1.0  # W is within [-2, 2] without it: room above
    alpha = torch.where(largest > 0, largest, 1.0) / gain
    return weight / alpha, alpha


class _AllFactors(NamedTuple):
    """The factors of this rank's rows and own columns, and what of them travels with the columns."""

    shift_log2: Tensor
    rows: tuple[Tensor, Tensor, Tensor]
    of_columns: tuple[Tensor, ...]

    @classmethod
    def of(cls, pairs: Pairs, shift_log2: Tensor, weight: Tensor, lse: Tensor) -> _AllFactors:
        """For rows and columns: factor, upstream gradient and log-sum-exp, of which the last two serve the exact path."""
        per_line = line_factor(pairs, weight, lse, shift_log2), weight, lse.masked_fill(weight == 0, torch.inf)
        rows, cols = zip(*(pairs.split(values) for values in per_line), strict=True)
        if cols[0] is None:
            cols = (rows[0].new_zeros(pairs.shape[1]),)
        return cls(shift_log2, rows, cols)

    def against(self, cols: tuple[Tensor, ...]) -> LineFactors:
        """This rank's rows with a block of columns."""
        u, row_upstream, row_lse = self.rows
        v, col_upstream, col_lse = (*cols, None, None)[:3]
        assert v is not None
        return LineFactors(self.shift_log2, u, v, ExactLines(row_upstream, row_lse, col_upstream, col_lse))


class _Weigh:
    """The weights of a tile: from the fast path, from the exact one, or on a device from whichever the flag there asks for."""

    def __init__(self, backend: Backend, workspace: Workspace, shift_log2: Tensor) -> None:
        self.backend, self.workspace = backend, workspace
        self.exact = backend.device_exact is None and float(shift_log2) == EXACT

    def __call__(self, pairs: Pairs, tile: Tile, factors: LineFactors) -> Tensor:
        if self.exact:
            return exact.weights(pairs, tile, factors, self.workspace.weights(tile))
        out = self.backend.tiles.weights(pairs, tile, factors, self.workspace)
        if self.backend.device_exact is not None:
            self.backend.device_exact.exact_weights(pairs, tile, factors, out)
        return out
