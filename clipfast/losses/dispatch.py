"""How a call of a loss is computed: as a single tile, by the dense definition, or by a sweep. Decided here and nowhere else."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, NamedTuple

import torch
from torch import Tensor

from clipfast.common.limits import limits
from clipfast.compute import native
from clipfast.compute.registry import AUTO, checked
from clipfast.losses import arguments, dense
from clipfast.losses.declaration import PLAIN, Loss
from clipfast.losses.options import Checked
from clipfast.losses.options import checked as checked_options
from clipfast.operators import single
from clipfast.operators.group_operators import GroupOptions
from clipfast.operators.record import Inputs, Options
from clipfast.operators.registration import ops
from clipfast.sweep.targets import IGNORE_INDEX, match, number_of_pairs, other_view

SINGLE, REFERENCE = "single", "reference"


class Call(NamedTuple):
    """Checked arguments: tensors as the operators take them, and options."""

    loss: Loss
    inputs: Inputs
    options: Checked
    statistics: bool = False


class Evaluated(NamedTuple):
    """The reduced loss and, where statistics were asked for, what they are made of.

    ``state`` (3, M + N), for losses in both directions: each line's log-sum-exp, positive logit and largest negative.
    """

    value: Tensor
    state: Tensor | None


def features(
    loss: Loss, a: Tensor, b: Tensor, targets: Tensor | None, given: Mapping[str, Any]
) -> tuple[Tensor, Tensor, Checked]:
    """Both sides' features and the options, checked; ``targets`` as far as shape and dtype go."""
    a, b = arguments.features(a, b, loss.sides)
    options = checked_options(f"{loss.name}_loss", PLAIN[loss.name], given) if given else PLAIN[loss.name]
    arguments.targets(targets, a)
    return a, b, options


def evaluate(call: Call) -> Evaluated:
    """The loss of ``call``."""
    loss, inputs, options, statistics = call
    way = route(call)
    if way == SINGLE:
        return Evaluated(single.mean(loss.name, loss.family, inputs, options.normalize), None)
    if way == REFERENCE:
        return _dense(call)
    wants = [_needs_grad(x) for x in inputs.differentiable]
    group, strategy, _ = options.ranks
    rest = Options(options.normalize, statistics, wants, options.workspace_bytes, way, group, strategy)
    swept = inputs if inputs.cols is not None else inputs._replace(targets=other_view(inputs.rows.shape[0], inputs.rows.device))
    if options.reduction == "mean" and loss.family.mean_at_once(inputs, rest):
        value, *_, state = getattr(ops, f"{loss.name}_mean")(*swept, *rest)
        return Evaluated(options.ranks.total(value), state)
    losses, state, *_ = getattr(ops, f"{loss.name}_losses")(*swept, *rest)
    return Evaluated(_reduce(losses, call), state)


def route(call: Call) -> str:
    """SINGLE, REFERENCE, or the backend that a sweep is asked for by name (AUTO: the best one).

    No backend's predicate runs here: under torch.compile it belongs inside the operator, which resolves the name.
    """
    name, inputs = call.options.backend, call.inputs
    if call.options.ranks.group:
        if name == REFERENCE:
            raise ValueError("backend must be a sweep's, or None, with a group; got 'reference', which runs in one process")
        if name is None:
            return AUTO  # for small batches too: the other ranks' columns are not here
    if name is not None:
        return name if torch.compiler.is_compiling() else checked(name)
    # A compiled graph serves every batch size, so it must not branch on the size.
    if torch.compiler.is_compiling() or inputs.rows.shape[0] * inputs.columns.shape[0] > limits().single_logits:
        return AUTO
    plain = call.options.reduction == "mean" and inputs.targets is None and not call.statistics
    rows = inputs.rows
    one_tile = plain and rows.is_cpu and rows.dtype != torch.float64 and call.loss.family.one_tile
    return SINGLE if one_tile and native.load_error() is None else REFERENCE


def _needs_grad(x: Tensor | None) -> bool:
    return x is not None and x.requires_grad and torch.is_grad_enabled()


def _dense(call: Call) -> Evaluated:
    rows, _, scale, bias, targets = call.inputs
    columns = call.inputs.columns
    match(targets, rows.shape[0], columns.shape[0], call.loss.family.both, rows.device)  # raises for wrong targets
    z = dense.logits(rows, columns, scale, call.options.normalize)
    losses = call.loss.dense(z if bias is None else z + bias, targets)
    state = dense.state(z.detach().double(), targets) if call.statistics else None
    return Evaluated(_reduce(losses, call), state)


def _reduce(losses: Tensor, call: Call) -> Tensor:
    """The losses of all lines, the rows' and then the columns', reduced; a pair's loss is the mean of its directions."""
    reduction, ranks, targets = call.options.reduction, call.options.ranks, call.inputs.targets
    directions = 2 if call.loss.family.both else 1
    if reduction == "mean":
        return _mean(losses, targets, directions, ranks)
    if reduction == "sum":
        return ranks.total(losses.sum() / directions if call.loss.family.both else losses.sum())
    if not call.loss.family.both:
        return losses
    m = call.inputs.rows.shape[0]
    rows, cols = losses[:m], losses[m:]
    return (rows + (cols if targets is None else at_targets(cols, targets))) / 2


def _mean(losses: Tensor, targets: Tensor | None, directions: int, ranks: GroupOptions) -> Tensor:
    """Over the lines that have a positive; the others' losses are 0."""
    if targets is None and not ranks.group:
        return losses.mean()
    lines = losses.new_full((), losses.shape[0]) if targets is None else (targets != IGNORE_INDEX).sum() * directions
    total, count = ranks.total(torch.stack([losses.sum().double(), lines.double()])).unbind()
    if targets is not None and targets.is_cpu and not torch.compiler.is_compiling():
        number_of_pairs(int(count))  # 0 pairs are NaN where the host must not look, or cannot
    return (total / count).to(losses.dtype)


def at_targets(per_col: Tensor, targets: Tensor) -> Tensor:
    """Each row's value of its target column, 0 without one."""
    return per_col[targets.clamp_min(0)].masked_fill(targets == IGNORE_INDEX, 0.0)
