"""What the kernels of all losses share: from inputs and options to a sweep, and from its results to tensors."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from clipfast.common.dtypes import FLOATS
from clipfast.compute.registry import resolve
from clipfast.distributed.exchange import Exchange
from clipfast.operators.connection import connect
from clipfast.operators.record import Inputs, Options, Saved
from clipfast.sweep.epilogue import Gradients
from clipfast.sweep.gradient_sums import Wanted
from clipfast.sweep.pairs import prepare
from clipfast.sweep.schedule import Budget, Extent, Schedule
from clipfast.sweep.sweep import Sweep
from clipfast.sweep.tile_operations import Backend

Cut = Callable[[Extent, Budget], Schedule]


def sweep_of(inputs: Inputs, options: Options, both: bool, exchange: Exchange, cut: Cut, backend: Backend) -> Sweep:
    """``both``: a column is the positive of one row at most, and may have a line of its own; ``cut`` decides the schedule."""
    pairs = prepare(
        inputs.rows, inputs.cols, inputs.scale, inputs.targets,
        both=both, normalize=options.normalize, operations=backend.rows, exchange=exchange,
    )  # fmt: skip
    x = pairs.rows.x
    budget = Budget(options.workspace_bytes, x.dtype.itemsize, x.shape[1], x.device.type)
    extent = Extent(pairs.shape[0], exchange.blocks, pairs.symmetric, exchange.ranks == 1)
    return Sweep(pairs, backend, cut(extent, budget), exchange)


def backend_of(inputs: Inputs, options: Options) -> Backend:
    return resolve(options.backend, inputs.rows)


def widened(inputs: Inputs, backend: Backend) -> Inputs:
    """``inputs`` with features in the dtype that the backend multiplies.

    So a mean's gradients have that dtype until the upstream gradient has been multiplied in, and are rounded once.
    """
    rows, cols = backend.rows.widened(inputs.rows, inputs.cols)
    return inputs._replace(rows=rows, cols=cols)


def agreed(call: str, inputs: Inputs, options: Options) -> Exchange:
    """The exchange of a forward call, whose ranks must agree on everything but their batches."""
    bits = sum(want << i for i, want in enumerate(options.wants))
    numbers = {
        "normalize": options.normalize,
        "return_stats": options.maxima,
        "gradients wanted (1 for rows, 2 columns, 4 scale, 8 bias)": bits,
        f"dtype (an index of {FLOATS})": FLOATS.index(inputs.rows.dtype),
    }
    scalars = {"scale": inputs.scale} if inputs.bias is None else {"scale": inputs.scale, "bias": inputs.bias}
    return connect(options.group, options.strategy, inputs.rows, inputs.columns, call=call, options=numbers, scalars=scalars)


def reconnected(inputs: Inputs, options: Options, saved: Saved) -> Exchange:
    """The exchange of the backward call."""
    return connect(options.group, options.strategy, inputs.rows, inputs.columns, sizes=saved.sizes)


def gradients_out(
    inputs: Inputs, wanted: Wanted, gradients: Gradients, dtype: torch.dtype, by_bias: Tensor | None = None
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """As operators return them: the features' in ``dtype``, an empty tensor for what is unwanted."""
    scale = None if gradients.scale is None else gradients.scale.to(inputs.scale.dtype)
    bias = by_bias.to(inputs.bias.dtype) if inputs.bias is not None and by_bias is not None and wanted.bias else None
    rows, cols, scale, bias = (
        inputs.rows.new_empty(0, dtype=dtype) if g is None else g for g in (gradients.rows, gradients.cols, scale, bias)
    )
    return rows, cols, scale, bias


def no_state(inputs: Inputs) -> Tensor:
    return inputs.rows.new_empty(0, dtype=torch.float64)


def layout_of(sweep: Sweep) -> Tensor:
    """The tiles' layout, on the CPU, for the backward call."""
    return torch.tensor(sweep.schedule.layout)
