"""Mean losses of a small batch on the CPU: the whole matrix is one tile, taken by two C++ calls (csrc/cpu/single.cpp).

Up to ``limits().single_logits`` the calls of a sweep, and of a torch.library operator's autograd, would take longer than the
arithmetic; there is no memory to save. The mathematics is the sweep's. What the C++ refuses is handed to the sweep: logits that
one float32 window does not hold, NaN, infinity, and features that overflow.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import torch
from torch import Tensor

from clipfast.operators.record import Inputs, LossOperators, Options
from clipfast.operators.registration import DIFFERENTIABLE, ops
from clipfast.sweep.targets import other_view

_cpu = torch.ops.clipfast_cpu


class Kind(NamedTuple):
    """Which loss: ``sigmoid``, or a softmax over rows or over ``both``; ``views``: of 2N rows i and i + N belong together."""

    sigmoid: bool = False
    both: bool = False
    views: bool = False
    normalize: bool = False


def mean(loss: LossOperators, inputs: Inputs, normalize: bool) -> Tensor:
    """Of a loss with ``one_tile``: row i's positive is column i; without columns the rows are NT-Xent's views."""
    rows, cols, scale, bias, _ = inputs
    kind = Kind(loss.family.one_tile == "sigmoid", loss.family.both, cols is None, normalize)
    return _Mean.apply(rows.float(), None if cols is None else cols.float(), scale, bias, kind, loss.name)


class _Mean(torch.autograd.Function):
    """The gradients come with the loss, for all inputs that want one; ``backward`` only scales them."""

    @staticmethod
    def forward(
        ctx: Any, rows: Tensor, cols: Tensor | None, scale: Tensor, bias: Tensor | None, kind: Kind, name: str
    ) -> Tensor:
        if torch.is_autocast_enabled("cpu"):  # it would round the products
            with torch.autocast("cpu", enabled=False):
                return _Mean.forward(ctx, rows, cols, scale, bias, kind, name)
        wants = ctx.needs_input_grad[:DIFFERENTIABLE]
        ctx.save_for_backward(rows, cols, scale, bias)
        inputs = Inputs(rows, cols, scale, bias, None)
        loss, *gradients = _single(inputs, kind, wants) or _swept(inputs, kind, wants, name)
        ctx.gradients = [g if w else None for g, w in zip(gradients, wants, strict=True)]
        return loss

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        pairs = zip(ctx.gradients, ctx.saved_tensors, strict=True)
        if torch.is_grad_enabled():  # through an operator whose own derivative is an error that says so
            return *(None if g is None else ops.scaled(g, grad, x) for g, x in pairs), None, None
        upstream = float(grad)
        return *(None if g is None else (g * upstream).to(x.dtype) for g, x in pairs), None, None


def _single(inputs: Inputs, kind: Kind, wants: tuple[bool, ...]) -> tuple[Any, ...] | None:
    """The loss and the gradients of rows, columns, scale and bias; None for what only the sweep serves."""
    rows = inputs.rows.contiguous()
    cols = rows if inputs.cols is None else inputs.cols.contiguous()
    scale, bias = float(inputs.scale), inputs.bias
    loss, by_scale = rows.new_empty(()), rows.new_empty(())
    by_bias = None if bias is None else rows.new_empty(())
    scores = torch.mm(rows, cols.t())
    state = rows.new_empty(3, cols.shape[0], dtype=torch.float64) if any(wants) else None
    if bias is not None:
        served = _cpu.sigmoid_single.default(scores, rows, cols, scale, float(bias), kind.normalize, loss, state, by_bias)
    else:
        served = _cpu.softmax_single.default(scores, rows, cols, scale, *kind[1:], loss, state)
    if not served or state is None:
        return (loss, None, None, None, None) if served else None
    by_rows, by_cols = _products(scores, rows, cols, kind, wants)
    _cpu.finish_single.default(by_rows, by_cols, rows, cols, scale, kind.views, kind.normalize, state, by_scale)
    return loss, by_rows, by_cols, by_scale, by_bias


def _products(
    w: Tensor, rows: Tensor, cols: Tensor, kind: Kind, wants: tuple[bool, ...]
) -> tuple[Tensor | None, Tensor | None]:
    want_rows, want_cols, want_scale, _ = wants
    by_rows = torch.mm(w, cols) if want_rows or (want_scale and not want_cols) else None
    if kind.views:
        return None if by_rows is None else by_rows.addmm_(w.t(), rows), None
    return by_rows, torch.mm(w.t(), rows) if want_cols else None


def _swept(inputs: Inputs, kind: Kind, wants: tuple[bool, ...], name: str) -> tuple[Any, ...]:
    if kind.views:
        inputs = inputs._replace(targets=other_view(inputs.rows.shape[0]))
    options = Options(kind.normalize, False, list(wants), None, "cpu", "", "auto")
    return getattr(ops, f"{name}_mean")(*inputs, *options)[: 1 + DIFFERENTIABLE]
