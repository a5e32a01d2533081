"""Mean losses of a small batch on the CPU: the whole matrix is one tile, taken by two C++ calls (csrc/cpu/single.cpp).

Up to ``registry.SMALL`` logits the calls of a sweep, and of a torch.library operator's autograd, would take longer than
the arithmetic; there is no memory to save. The mathematics is the sweep's, and so is what it hands over: logits that one
float32 window does not hold, NaN, infinity, and features that overflow.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import torch
from torch import Tensor

from clipfast.operators.connection import Across
from clipfast.operators.ops import ops

_cpu = torch.ops.clipfast_cpu


class Kind(NamedTuple):
    """Which loss: the sigmoid's or a softmax over rows, or over ``both``; ``views``: NT-Xent's 2N, i belongs to i + N."""

    sigmoid: bool = False
    both: bool = False
    views: bool = False
    normalize: bool = False


def softmax_mean(rows: Tensor, cols: Tensor | None, scale: Tensor, both: bool, normalize: bool) -> Tensor:
    """Row i's positive is column i; without ``cols`` the rows are NT-Xent's views."""
    rows = rows.float()
    kind = Kind(both=both, views=cols is None, normalize=normalize)
    return _Mean.apply(rows, None if cols is None else cols.float(), scale, None, kind)


def sigmoid_mean(rows: Tensor, cols: Tensor, scale: Tensor, bias: Tensor, normalize: bool) -> Tensor:
    return _Mean.apply(rows.float(), cols.float(), scale, bias, Kind(sigmoid=True, normalize=normalize))


class _Mean(torch.autograd.Function):
    """The gradients come with the loss, for all inputs that want one; ``backward`` only scales them."""

    @staticmethod
    def forward(ctx: Any, rows: Tensor, cols: Tensor | None, scale: Tensor, bias: Tensor | None, kind: Kind) -> Tensor:
        if torch.is_autocast_enabled("cpu"):  # it would round the products
            with torch.autocast("cpu", enabled=False):
                return _Mean.forward(ctx, rows, cols, scale, bias, kind)
        wants = ctx.needs_input_grad[:4]
        ctx.save_for_backward(rows, cols, scale, bias)
        rows = rows.contiguous()
        right = rows if cols is None else cols.contiguous()
        results = _single(rows, right, scale, bias, kind, wants)
        loss, *gradients = results or _swept(rows, cols, scale, bias, kind, wants)
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
    rows: Tensor, cols: Tensor, scale: Tensor, bias: Tensor | None, kind: Kind, wants: tuple[bool, ...]
) -> tuple[Any, ...] | None:
    """The loss and the gradients of rows, columns, scale and bias; None for what only the sweep serves."""
    factor, loss, by_scale = float(scale), rows.new_empty(()), rows.new_empty(())
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


def _swept(
    rows: Tensor, cols: Tensor | None, scale: Tensor, bias: Tensor | None, kind: Kind, wants: tuple[bool, ...]
) -> tuple[Any, ...]:
    end = (None, "cpu")
    if bias is not None:
        return ops.sigmoid_mean(rows, cols, scale, bias, kind.normalize, *wants, *end, *Across()[:2])
    partner = torch.arange(rows.shape[0]).roll(rows.shape[0] // 2) if kind.views else None
    results = ops.softmax_mean(rows, cols, scale, partner, kind.both, kind.normalize, False, *wants[:3], *end)
    return *results[:4], None
