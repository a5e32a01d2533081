"""The operators' kernels for losses whose lines are softmaxes: CLIP, InfoNCE, NT-Xent."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from clipfast.common.dtypes import compute_dtype
from clipfast.distributed.exchange import Alone
from clipfast.operators.calls import agreed, backend_of, gradients_out, layout_of, reconnected, sweep_of, widened
from clipfast.operators.record import Inputs, MeanResults, Options, Saved
from clipfast.sweep import softmax_passes, softmax_strips
from clipfast.sweep.lines import CROSS_ENTROPY, LineFunction, LineResults
from clipfast.sweep.schedule import Budget, Extent, Schedule
from clipfast.sweep.softmax_passes import Upstream
from clipfast.sweep.targets import number_of_pairs


@dataclass(frozen=True)
class SoftmaxFamily:
    """``both``: columns have softmaxes beside the rows. ``function``: what a line makes of its negatives and its positive."""

    both: bool = False
    function: LineFunction = CROSS_ENTROPY
    two_passes = True

    @property
    def one_tile(self) -> bool:
        return self.function is CROSS_ENTROPY

    def check(self, inputs: Inputs) -> None:
        if inputs.bias is not None:
            raise ValueError("bias must be None for a loss of softmaxes, which a bias does not change; got a tensor")

    def mean(self, name: str, inputs: Inputs, options: Options) -> MeanResults:
        """For one process. In a group ``losses`` is called instead: its caller counts all ranks' pairs, and takes the mean."""
        if options.group:
            raise ValueError(f"group must be '' for {name}_mean; got {options.group!r}; call {name}_losses in a group")
        backend, wanted = backend_of(inputs, options), options.wanted
        inputs = widened(inputs, backend)
        exchange = Alone(inputs.rows.shape[0], inputs.columns.shape[0])
        sweep = sweep_of(
            inputs, options, self.both, exchange, lambda extent, budget: self.schedule(extent, budget, wanted.any), backend
        )
        pairs, dtype = sweep.pairs, sweep.pairs.dtype
        unpaired = pairs.unpaired_lines()
        count = number_of_pairs(pairs.lines - (0 if unpaired is None else int(unpaired.sum())))
        weight = pairs.row_scale.new_full((pairs.lines,), 1 / count)
        lines, gradients = softmax_strips.mean(sweep, self.function, weight, wanted, options.maxima, dtype)
        loss = (lines.loss.sum() / count).to(dtype)
        return MeanResults(loss, *gradients_out(inputs, wanted, gradients, dtype), _state(lines))

    def schedule(self, extent: Extent, budget: Budget, backward: bool) -> Schedule:
        return Schedule.for_mean(extent, budget, one_sided=not self.both, second_pass=backward)

    def losses(self, name: str, inputs: Inputs, options: Options) -> Saved:
        wanted, exchange = options.wanted, agreed(f"{name}_losses", inputs, options)
        sweep = sweep_of(
            inputs,
            options,
            self.both,
            exchange,
            lambda extent, budget: Schedule.of(extent, budget, extent.room(budget) if wanted.any else 0),
            backend_of(inputs, options),
        )
        kept = sweep.kept()
        lines = softmax_passes.forward(sweep, self.function, kept, options.maxima)
        return Saved(lines.loss.to(sweep.pairs.dtype), _state(lines), lines.shift_log2, kept, exchange.sizes, layout_of(sweep))

    def gradients(self, upstream: Tensor, inputs: Inputs, saved: Saved, options: Options) -> tuple[Tensor, ...]:
        exchange, wanted, dtype = reconnected(inputs, options, saved), options.wanted, inputs.rows.dtype
        sweep = sweep_of(
            inputs,
            options,
            self.both,
            exchange,
            lambda extent, budget: Schedule.laid_out(extent, saved.kept.numel(), saved.layout.tolist()),
            backend_of(inputs, options),
        )
        weight = upstream.double().contiguous()
        lines = Upstream(weight, saved.losses.double(), saved.state[0], saved.shift_log2, saved.kept)
        gradients = softmax_passes.backward(sweep, self.function, lines, wanted, overwrite=False, dtype=dtype)
        return gradients_out(inputs, wanted, gradients, dtype)

    def mean_at_once(self, inputs: Inputs, options: Options) -> bool:
        """On a GPU no exponentials are kept: gradients at once would save nothing, and hold memory through the step."""
        return inputs.rows.is_cpu and not options.group

    def lines(self, inputs: Inputs) -> int:
        m = inputs.rows.shape[0]
        return m + inputs.columns.shape[0] if self.both else m

    def state(self, inputs: Inputs) -> tuple[int, ...]:
        return 3, self.lines(inputs)

    def kept(self, inputs: Inputs, options: Options) -> int:
        rows = inputs.rows
        if not any(options.wants):
            return 0
        budget = Budget(options.workspace_bytes, compute_dtype(rows.dtype).itemsize, int(rows.shape[1]), rows.device.type)
        copied = rows.numel() if inputs.cols is None else 0
        return budget.kept(rows.shape[0], None if options.group else inputs.columns.shape[0], copied)


def _state(lines: LineResults) -> Tensor:
    return torch.stack([lines.lse, lines.positive, lines.lse if lines.max_negative is None else lines.max_negative])
