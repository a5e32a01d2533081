"""The losses as torch operators: schemas, shapes for tracing, autograd. What they compute is in softmax.py and sigmoid.py.

Every operator takes features of one dtype, a 0-d ``scale`` tensor, and gives float32 (float64 for float64 features).
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from clipfast import sigmoid, softmax
from clipfast.backends import tile_operations
from clipfast.epilogue import finish, positive_logits
from clipfast.pairs import compute_dtype, prepare
from clipfast.products import Products, Wanted
from clipfast.tiling import Budget

_library = torch.library.Library("clipfast", "DEF")
_library.define(
    "softmax_nll(Tensor rows, Tensor? cols, Tensor scale, Tensor? targets, bool both, bool normalize, bool best, bool keep, "
    "int workspace_bytes, str backend) -> (Tensor nll, Tensor state, Tensor shift, Tensor kept)"
)
_library.define(
    "softmax_nll_grad(Tensor grad, Tensor rows, Tensor? cols, Tensor scale, Tensor? targets, Tensor nll, Tensor state, "
    "Tensor shift, Tensor kept, bool both, bool normalize, bool want_rows, bool want_cols, bool want_scale, "
    "int workspace_bytes, str backend) "
    "-> (Tensor, Tensor, Tensor)"
)
_library.define(
    "sigmoid_nll(Tensor rows, Tensor cols, Tensor scale, Tensor bias, bool normalize, int workspace_bytes, str backend) "
    "-> Tensor"
)
_library.define(
    "sigmoid_nll_grad(Tensor? row_grad, Tensor rows, Tensor cols, Tensor scale, Tensor bias, bool normalize, bool want_rows, "
    "bool want_cols, bool want_scale, bool want_bias, int workspace_bytes, str backend) "
    "-> (Tensor, Tensor, Tensor, Tensor, Tensor)"
)
_library.define(
    "sigmoid_mean(Tensor rows, Tensor cols, Tensor scale, Tensor bias, bool normalize, bool want_rows, bool want_cols, "
    "bool want_scale, bool want_bias, int workspace_bytes, str backend) -> (Tensor, Tensor, Tensor, Tensor, Tensor)"
)
ops = torch.ops.clipfast


def _kernel(name: str) -> Callable[[Callable], Callable]:
    """Register a Python kernel that runs as it is written: no autocast, no graph."""

    def register(function: Callable) -> Callable:
        @functools.wraps(function)
        def run(*args: Any) -> Any:
            device = args[0].device.type if isinstance(args[0], Tensor) else "cpu"
            with torch.no_grad():
                if not torch.is_autocast_enabled(device):
                    return function(*args)
                with torch.autocast(device, enabled=False):
                    return function(*args)

        _library.impl(name, run, "CompositeExplicitAutograd")
        return function

    return register


def _out(like: Tensor, gradient: Tensor | None) -> Tensor:
    """An operator cannot give None: an unwanted gradient is an empty tensor."""
    return like.new_empty(0) if gradient is None else gradient.to(like.dtype)


@_kernel("softmax_nll")
def _softmax_nll(rows, cols, scale, targets, both, normalize, best, keep, workspace_bytes, backend):
    tiles = tile_operations(backend)
    pairs = prepare(rows, cols, scale, targets, both, normalize, tiles)
    budget = Budget(workspace_bytes, pairs.dtype.itemsize)
    kept = pairs.rows.x.new_empty(budget.kept_elements(*pairs.shape, rows.shape[1]) if keep else 0)
    shift, negatives, largest = softmax.forward(pairs, tiles, kept, budget, best)
    positive = pairs.to_lines(positive_logits(pairs, tiles))
    nll = torch.logaddexp(negatives - positive, torch.zeros_like(positive))  # F.softplus is linear above its threshold
    lse = positive + nll
    unpaired = pairs.unpaired_lines()
    if unpaired is not None:
        nll, positive, lse = (
            nll.masked_fill(unpaired, 0.0),
            positive.masked_fill(unpaired, 0.0),
            lse.where(~unpaired, negatives),
        )
    state = torch.stack([lse, positive, lse if largest is None else largest])
    return nll.to(pairs.dtype), state, lse.new_full((), shift), kept


@_kernel("softmax_nll_grad")
def _softmax_nll_grad(
    grad, rows, cols, scale, targets, nll, state, shift, kept, both, normalize, want_rows, want_cols, want_scale,
    workspace_bytes, backend,
):  # fmt: skip
    tiles = tile_operations(backend)
    pairs = prepare(rows, cols, scale, targets, both, normalize, tiles)
    share, unpaired = grad.double(), pairs.unpaired_lines()
    if unpaired is not None:
        share = share.masked_fill(unpaired, 0.0)
    pull = pairs.sum_of_lines(share * -torch.expm1(-nll.double()))  # 1 - p from -log p, without cancellation
    alpha = float(share.abs().max()) or 1.0  # the weights stay within [0, 2] whatever gradient comes from above
    products = Products(pairs, tiles.gemm, Wanted(want_rows, want_cols, want_scale))
    budget = Budget(workspace_bytes, pairs.dtype.itemsize)
    w = softmax.weights(pairs, float(shift), state[0], share / alpha)
    softmax.backward(pairs, tiles, kept, budget, w, products)
    gradients = finish(pairs, tiles, products, pull, alpha)
    return _out(rows, gradients.rows), _out(rows, gradients.cols), _out(scale, gradients.scale)


@_kernel("sigmoid_nll")
def _sigmoid_nll(rows, cols, scale, bias, normalize, workspace_bytes, backend):
    return _sigmoid(rows, cols, scale, bias, normalize, None, Wanted(False, False, False), workspace_bytes, backend)[0]


@_kernel("sigmoid_nll_grad")
def _sigmoid_nll_grad(
    row_grad, rows, cols, scale, bias, normalize, want_rows, want_cols, want_scale, want_bias, workspace_bytes, backend
):
    wanted = Wanted(want_rows, want_cols, want_scale, want_bias)
    return _sigmoid(rows, cols, scale, bias, normalize, row_grad, wanted, workspace_bytes, backend)


@_kernel("sigmoid_mean")
def _sigmoid_mean(rows, cols, scale, bias, normalize, want_rows, want_cols, want_scale, want_bias, workspace_bytes, backend):
    wanted = Wanted(want_rows, want_cols, want_scale, want_bias)
    rows, cols = rows.to(compute_dtype(rows.dtype)), cols.to(compute_dtype(rows.dtype))  # unrounded: they are yet to be scaled
    share = rows.new_full((rows.shape[0],), 1 / rows.shape[0], dtype=torch.float64)
    loss, *gradients = _sigmoid(rows, cols, scale, bias, normalize, share, wanted, workspace_bytes, backend)
    return loss.mean(), *gradients


def _sigmoid(rows, cols, scale, bias, normalize, row_weight, wanted, workspace_bytes, backend):
    tiles = tile_operations(backend)
    pairs = prepare(rows, cols, scale, None, True, normalize, tiles)
    budget = Budget(workspace_bytes, pairs.rows.x.element_size())
    loss, gradients, bias_grad = sigmoid.sweep(pairs, tiles, budget, float(bias), row_weight, wanted)
    return (
        loss.to(pairs.dtype),
        _out(rows, gradients.rows),
        _out(rows, gradients.cols),
        _out(scale, gradients.scale),
        _out(bias, bias_grad if wanted.bias else None),
    )


@torch.library.register_fake("clipfast::softmax_nll")
def _(rows, cols, scale, targets, both, normalize, best, keep, workspace_bytes, backend):
    dtype = compute_dtype(rows.dtype)
    m, n = rows.shape[0], (rows if cols is None else cols).shape[0]
    kept = Budget(workspace_bytes, dtype.itemsize).kept_elements(m, n, rows.shape[1]) if keep else 0
    lines = m + n if both else m
    state, shift = rows.new_empty(3, lines, dtype=torch.float64), rows.new_empty((), dtype=torch.float64)
    return rows.new_empty(lines, dtype=dtype), state, shift, rows.new_empty(kept, dtype=dtype)


@torch.library.register_fake("clipfast::softmax_nll_grad")
def _(
    grad, rows, cols, scale, targets, nll, state, shift, kept, both, normalize, want_rows, want_cols, want_scale,
    workspace_bytes, backend,
):  # fmt: skip
    return _fake(rows, want_rows), _fake(rows if cols is None else cols, want_cols), _fake(scale, want_scale)


@torch.library.register_fake("clipfast::sigmoid_nll")
def _(rows, cols, scale, bias, normalize, workspace_bytes, backend):
    return rows.new_empty(rows.shape[0], dtype=compute_dtype(rows.dtype))


@torch.library.register_fake("clipfast::sigmoid_nll_grad")
def _(row_grad, rows, cols, scale, bias, normalize, want_rows, want_cols, want_scale, want_bias, workspace_bytes, backend):
    loss = rows.new_empty(rows.shape[0], dtype=compute_dtype(rows.dtype))
    return loss, _fake(rows, want_rows), _fake(cols, want_cols), _fake(scale, want_scale), _fake(bias, want_bias)


@torch.library.register_fake("clipfast::sigmoid_mean")
def _(rows, cols, scale, bias, normalize, want_rows, want_cols, want_scale, want_bias, workspace_bytes, backend):
    wide = functools.partial(torch.empty_like, dtype=compute_dtype(rows.dtype))
    given = _fake(wide(rows), want_rows), _fake(wide(cols), want_cols), _fake(scale, want_scale), _fake(bias, want_bias)
    return rows.new_empty((), dtype=compute_dtype(rows.dtype)), *given


def _fake(like: Tensor, wanted: bool) -> Tensor:
    return like.new_empty(like.shape) if wanted else like.new_empty(0)


def _given(wants, gradients, likes) -> list[Tensor | None]:
    return [g.view(x.shape) if w else None for w, g, x in zip(wants, gradients, likes, strict=False)]


def _softmax_setup(ctx, inputs, output) -> None:
    rows, cols, scale, targets, both, normalize, _, _, workspace_bytes, backend = inputs
    ctx.save_for_backward(rows, cols, scale, targets, *output)
    ctx.options = both, normalize, workspace_bytes, backend
    ctx.mark_non_differentiable(*output[1:])
    ctx.set_materialize_grads(False)


def _softmax_backward(ctx, grad, *_):
    if grad is None:
        return (None,) * 10
    saved = ctx.saved_tensors
    both, normalize, workspace_bytes, backend = ctx.options
    wants = ctx.needs_input_grad[:3]
    gradients = ops.softmax_nll_grad(grad, *saved, both, normalize, *wants, workspace_bytes, backend)
    return *_given(wants, gradients, saved), *[None] * 7


def _sigmoid_setup(ctx, inputs, output) -> None:
    ctx.save_for_backward(*inputs[:4])
    ctx.options = inputs[4:]


def _sigmoid_backward(ctx, row_grad):
    normalize, workspace_bytes, backend = ctx.options
    wants = ctx.needs_input_grad[:4]
    _, *gradients = ops.sigmoid_nll_grad(row_grad, *ctx.saved_tensors, normalize, *wants, workspace_bytes, backend)
    return *_given(wants, gradients, ctx.saved_tensors), *[None] * 3


def _mean_setup(ctx, inputs, output) -> None:
    _, *gradients = output
    ctx.save_for_backward(*gradients)
    ctx.like = [(x.shape, x.dtype) for x in inputs[:4]]
    ctx.mark_non_differentiable(*gradients)
    ctx.set_materialize_grads(False)


def _mean_backward(ctx, grad, *_):
    if grad is None:
        return (None,) * 11
    wants = ctx.needs_input_grad[:4]
    given = [
        (g * grad.to(g.dtype)).to(dtype).view(shape) if w else None
        for w, g, (shape, dtype) in zip(wants, ctx.saved_tensors, ctx.like, strict=True)
    ]
    return *given, *[None] * 7


def _no_second_derivative(ctx, *_):
    raise RuntimeError(
        "clipfast's fused losses have no second derivative (create_graph=True); use backend='reference', which is "
        "dense and differentiable twice"
    )


torch.library.register_autograd("clipfast::softmax_nll", _softmax_backward, setup_context=_softmax_setup)
torch.library.register_autograd("clipfast::sigmoid_nll", _sigmoid_backward, setup_context=_sigmoid_setup)
torch.library.register_autograd("clipfast::sigmoid_mean", _mean_backward, setup_context=_mean_setup)
for _name in ("softmax_nll_grad", "sigmoid_nll_grad"):
    torch.library.register_autograd(f"clipfast::{_name}", _no_second_derivative)
