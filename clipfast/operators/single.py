"""Mean losses of a small batch on the CPU: the whole matrix is one tile, taken by two C++ calls (csrc/cpu/single.cpp).

Up to ``limits().single_logits`` the calls of a sweep, and of a torch.library operator's autograd, would take longer than the
arithmetic; there is no memory to save. The mathematics is the sweep's. What the C++ refuses is handed to the sweep: logits that
one float32 window does not hold, NaN, infinity, and features that overflow.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import torch
from torch import Tensor

from clipfast.operators.record import Family, Inputs, Options
from clipfast.operators.registration import DIFFERENTIABLE, ops
from clipfast.sweep.targets import other_view

_cpu = torch.ops.clipfast_cpu


class Kind(NamedTuple):
    """Which loss, by its operators' name: softmaxes over rows, or over ``both`` (with a bias: sigmoids of the pairs).

    ``views``: NT-Xent's 2N, of which i belongs to i + N.
    """

    name: str
    both: bool
    views: bool
    normalize: bool


def mean(name: str, family: Family, inputs: Inputs, normalize: bool) -> Tensor:
    """Of a family with ``one_tile``: row i's positive is column i; without columns the rows are NT-Xent's views."""
    rows, cols, scale, bias, _ = inputs
    kind = Kind(name, family.both, cols is None, normalize)
    return _Mean.apply(rows.float(), None if cols is None else cols.float(), scale, bias, kind)


class _Mean(torch.autograd.Function):
    """The gradients come with the loss, for all inputs that want one; ``backward`` only scales them."""

    @staticmethod
    def forward(ctx: Any, rows: Tensor, cols: Tensor | None, scale: Tensor, bias: Tensor | None, kind: Kind) -> Tensor:
        if torch.is_autocast_enabled("cpu"):  # it would round the products
            with torch.autocast("cpu", enabled=False):
                return _Mean.forward(ctx, rows, cols, scale, bias, kind)
        wants = ctx.needs_input_grad[:DIFFERENTIABLE]
        ctx.save_for_backward(rows, cols, scale, bias)
        inputs = (rows, cols, scale, bias)
        loss, *gradients = _single(*inputs, kind, wants) or _swept(Inputs(*inputs, None), kind, wants)
        ctx.gradients = [g if w else None for g, w in zip(gradients, wants, strict=True)]
        return loss

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        pairs = zip(ctx.gradients, ctx.saved_tensors, strict=True)
        if torch.is_grad_enabled():  # through an operator whose own derivative is an error that says so
            return *(None if g is None else ops.scaled(g, grad, x) for g, x in pairs), None
        upstream = float(grad)
        return *(None if g is None else (g * upstream).to(x.dtype) for g, x in pairs), None


def _single(
    rows: Tensor, cols: Tensor | None, scale: Tensor, bias: Tensor | None, kind: Kind, wants: tuple[bool, ...]
) -> tuple[Any, ...] | None:
    """The loss and the gradients of rows, columns, scale and bias; None for what only the sweep serves."""
    rows = rows.contiguous()
    cols, factor = rows if cols is None else cols.contiguous(), float(scale)
    loss, by_scale = rows.new_empty(()), rows.new_empty(())
    by_bias = None if bias is None else rows.new_empty(())
    scores = torch.mm(rows, cols.t())
    state = rows.new_empty(3, cols.shape[0], dtype=torch.float64) if any(wants) else None
    if bias is not None:
        served = _cpu.sigmoid_single.default(scores, rows, cols, factor, float(bias), kind.normalize, loss, state, by_bias)
    else:
        served = _cpu.softmax_single.default(scores, rows, cols, factor, *kind[1:], loss, state)
    if not served or state is None:
        return (loss, None, None, None, None) if served else None
    by_rows, by_cols = _products(scores, rows, cols, kind, wants)
    _cpu.finish_single.default(by_rows, by_cols, rows, cols, factor, kind.views, kind.normalize, state, by_scale)
    return loss, by_rows, by_cols, by_scale, by_bias


def _products(
    w: Tensor, rows: Tensor, cols: Tensor, kind: Kind, wants: tuple[bool, ...]
) -> tuple[Tensor | None, Tensor | None]:
    want_rows, want_cols, want_scale, _ = wants
    by_rows = torch.mm(w, cols) if want_rows or (want_scale and not want_cols) else None
    if kind.views:
        return None if by_rows is None else by_rows.addmm_(w.t(), rows), None
    return by_rows, torch.mm(w.t(), rows) if want_cols else None


def _swept(inputs: Inputs, kind: Kind, wants: tuple[bool, ...]) -> tuple[Any, ...]:
    if kind.views:
        inputs = inputs._replace(targets=other_view(inputs.rows.shape[0]))
    options = Options(kind.normalize, False, list(wants), None, "cpu", "", "auto")
    return getattr(ops, f"{kind.name}_mean")(*inputs, *options)[: 1 + DIFFERENTIABLE]
