"""The operators' kernels for losses whose pairs stand alone under a sigmoid: SigLIP."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from clipfast.common.dtypes import compute_dtype
from clipfast.distributed.exchange import Exchange
from clipfast.operators.calls import agreed, backend_of, gradients_out, layout_of, no_state, reconnected, sweep_of, widened
from clipfast.operators.record import Inputs, MeanResults, Options, Saved
from clipfast.sweep import sigmoid_pass
from clipfast.sweep.gradient_sums import Wanted
from clipfast.sweep.schedule import Budget, Extent, Schedule
from clipfast.sweep.sweep import Sweep
from clipfast.sweep.tile_operations import Backend

NONE_WANTED = Wanted(False, False, False)


@dataclass(frozen=True)
class SigmoidFamily:
    """Row i's positive is column i; the losses are the rows' sums."""

    both = False
    two_passes = False
    one_tile = True

    def check(self, inputs: Inputs) -> None:
        if inputs.cols is None or inputs.bias is None or inputs.targets is not None:
            raise ValueError("cols and bias must be tensors and targets None for a loss of sigmoids; got something else")

    def mean(self, name: str, inputs: Inputs, options: Options) -> MeanResults:
        """In a group every rank's part of the mean."""
        exchange, backend, wanted = agreed(f"{name}_mean", inputs, options), backend_of(inputs, options), options.wanted
        inputs = widened(inputs, backend)
        rows, total = inputs.rows, exchange.total_rows()
        weight, dtype = rows.new_full((rows.shape[0],), 1 / total, dtype=torch.float64), compute_dtype(rows.dtype)
        loss, gradients, by_bias = sigmoid_pass.run(
            _sweep(inputs, options, exchange, backend), _bias(inputs), weight, wanted, dtype
        )
        found = gradients_out(inputs, wanted, gradients, dtype, by_bias)
        return MeanResults((loss.sum() / total).to(dtype), *found, no_state(inputs))

    def schedule(self, extent: Extent, budget: Budget, backward: bool) -> Schedule:
        return Schedule.of(extent, budget)  # one pass: nothing is kept for a second

    def losses(self, name: str, inputs: Inputs, options: Options) -> Saved:
        exchange, dtype = agreed(f"{name}_losses", inputs, options), inputs.rows.dtype
        sweep = _sweep(inputs, options, exchange, backend_of(inputs, options))
        loss, _, _ = sigmoid_pass.run(sweep, _bias(inputs), None, NONE_WANTED, dtype)
        wide = compute_dtype(dtype)
        shift, kept = inputs.rows.new_zeros((), dtype=torch.float64), inputs.rows.new_empty(0, dtype=wide)
        return Saved(loss.to(wide), no_state(inputs), shift, kept, exchange.sizes, layout_of(sweep))

    def gradients(self, upstream: Tensor, inputs: Inputs, saved: Saved, options: Options) -> tuple[Tensor, ...]:
        exchange, wanted, dtype = reconnected(inputs, options, saved), options.wanted, inputs.rows.dtype
        sweep = _sweep(inputs, options, exchange, backend_of(inputs, options))
        _, gradients, by_bias = sigmoid_pass.run(sweep, _bias(inputs), upstream, wanted, dtype)
        return gradients_out(inputs, wanted, gradients, dtype, by_bias)

    def mean_at_once(self, inputs: Inputs, options: Options) -> bool:
        return True  # the weights need no sums, so one product of the scores serves value and gradients

    def lines(self, inputs: Inputs) -> int:
        return inputs.rows.shape[0]

    def state(self, inputs: Inputs) -> tuple[int, ...]:
        return (0,)

    def kept(self, inputs: Inputs, options: Options) -> int:
        return 0


def _sweep(inputs: Inputs, options: Options, exchange: Exchange, backend: Backend) -> Sweep:
    return sweep_of(inputs, options, True, exchange, Schedule.of, backend)


def _bias(inputs: Inputs) -> Tensor:
    assert inputs.bias is not None
    return inputs.bias
