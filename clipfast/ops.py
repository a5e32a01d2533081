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
from clipfast.sigmoid import Wanted
from clipfast.tiling import Budget

_library = torch.library.Library("clipfast", "DEF")
_library.define(
    "softmax_nll(Tensor rows, Tensor? cols, Tensor scale, Tensor? targets, bool both, bool normalize, bool best, bool keep, "
    "int workspace_bytes, str backend) -> (Tensor row_nll, Tensor col_nll, Tensor row_state, Tensor col_state, Tensor shift, "
    "Tensor kept)"
)
_library.define(
    "softmax_nll_grad(Tensor? row_grad, Tensor? col_grad, Tensor rows, Tensor? cols, Tensor scale, Tensor? targets, "
    "Tensor row_nll, Tensor col_nll, Tensor row_state, Tensor col_state, Tensor shift, Tensor kept, bool both, "
    "bool normalize, bool want_rows, bool want_cols, bool want_scale, int workspace_bytes, str backend) "
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
    pairs = prepare(rows, cols, scale, targets, both or cols is None, normalize, tiles)
    (m, n), width = pairs.shape, rows.shape[1]
    budget = Budget(workspace_bytes, pairs.rows.x.element_size())
    kept = pairs.rows.x.new_empty(budget.kept_elements(m, n, width) if keep else 0)
    state = softmax.forward(pairs, tiles, kept, budget, both or pairs.triangle, best)
    positive = positive_logits(pairs, tiles)
    row_lse = torch.logaddexp(state.log_row, positive)
    row_nll = _softplus(state.log_row - positive)
    if pairs.partner is not None:
        paired = pairs.partner >= 0
        row_lse, row_nll = torch.where(paired, row_lse, state.log_row), row_nll.masked_fill(~paired, 0.0)
    row_state = torch.stack([row_lse, positive, positive if state.row_best is None else state.row_best])
    shift = row_lse.new_full((), state.shift)
    if not both:
        empty = row_lse.new_empty
        return row_nll.to(pairs.dtype), empty(0, dtype=pairs.dtype), row_state, empty(2, 0), shift, kept
    assert state.log_col is not None
    if pairs.back is None:
        col_nll, col_lse = _softplus(state.log_col - positive), torch.logaddexp(state.log_col, positive)
    else:
        unpaired, positive = pairs.back < 0, positive[pairs.back.clamp_min(0)]
        col_nll = _softplus(state.log_col - positive).masked_fill_(unpaired, 0.0)
        col_lse = torch.where(unpaired, state.log_col, torch.logaddexp(state.log_col, positive))
    col_state = torch.stack([col_lse, col_lse if state.col_best is None else state.col_best])
    return row_nll.to(pairs.dtype), col_nll.to(pairs.dtype), row_state, col_state, shift, kept


def _softplus(x: Tensor) -> Tensor:
    """log(1 + exp(x)) to full relative precision (F.softplus is linear above its threshold)."""
    return torch.logaddexp(x, x.new_zeros(()))


@_kernel("softmax_nll_grad")
def _softmax_nll_grad(
    row_grad, col_grad, rows, cols, scale, targets, row_nll, col_nll, row_state, col_state, shift, kept, both, normalize,
    want_rows, want_cols, want_scale, workspace_bytes, backend,
):  # fmt: skip
    tiles = tile_operations(backend)
    pairs = prepare(rows, cols, scale, targets, both or cols is None, normalize, tiles)
    wanted = Wanted(want_rows, want_cols, want_scale)
    row_share = _share(row_grad, row_nll, pairs.paired_rows())
    col_share = _share(col_grad, col_nll, pairs.paired_cols()) if both else None
    largest = row_share.abs().max() if col_share is None else torch.maximum(row_share.abs().max(), col_share.abs().max())
    alpha = float(largest) or 1.0  # weights stay within [0, 2] whatever gradient comes from above
    pull = row_share * _one_minus_p(row_nll)
    other = pull if pairs.triangle else None if col_share is None else col_share * _one_minus_p(col_nll)
    if other is not None:
        pull = pull + (other if pairs.partner is None else other[pairs.partner.clamp_min(0)])
    if pairs.partner is not None:
        pull = pull.masked_fill(pairs.partner < 0, 0.0)
    w = softmax.weights(
        pairs,
        float(shift),
        row_state[0],
        col_state[0] if both else None,
        row_share / alpha,
        None if col_share is None else col_share / alpha,
    )
    left, right = wanted.buffers(pairs)
    budget = Budget(workspace_bytes, pairs.rows.x.element_size())
    softmax.backward(pairs, tiles, kept, budget, w, left, right)
    gradients = finish(pairs, tiles, wanted, left, right, pull, alpha)
    return _out(rows, gradients.rows), _out(rows, gradients.cols), _out(scale, gradients.scale)


def _share(grad: Tensor | None, nll: Tensor, paired: Tensor | None) -> Tensor:
    """The upstream gradient of each loss (float64), 0 where there is none."""
    if grad is None:
        return torch.zeros_like(nll, dtype=torch.float64)
    share = grad.double()
    return share if paired is None else share.masked_fill(~paired, 0.0)


def _one_minus_p(nll: Tensor) -> Tensor:
    """1 - p of the positive, from its loss -log p without cancellation."""
    return -torch.expm1(-nll.double())


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
    state = functools.partial(rows.new_empty, dtype=torch.float64)
    budget = Budget(workspace_bytes, dtype.itemsize)
    kept = budget.kept_elements(m, n, rows.shape[1]) if keep else 0
    columns = n if both else 0
    nll = functools.partial(rows.new_empty, dtype=dtype)
    return nll(m), nll(columns), state(3, m), state(2, columns), state(()), nll(kept)


@torch.library.register_fake("clipfast::softmax_nll_grad")
def _(
    row_grad, col_grad, rows, cols, scale, targets, row_nll, col_nll, row_state, col_state, shift, kept, both, normalize,
    want_rows, want_cols, want_scale, workspace_bytes, backend,
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
    loss = rows.new_empty((), dtype=compute_dtype(rows.dtype))
    return loss, _fake(rows, want_rows), _fake(cols, want_cols), _fake(scale, want_scale), _fake(bias, want_bias)


def _fake(like: Tensor, wanted: bool) -> Tensor:
    return like.new_empty(like.shape) if wanted else like.new_empty(0)


def _given(wanted: bool, gradient: Tensor, like: Tensor) -> Tensor | None:
    return gradient.view(like.shape) if wanted else None


def _softmax_setup(ctx, inputs, output) -> None:
    rows, cols, scale, targets, both, normalize, _, _, workspace_bytes, backend = inputs
    ctx.save_for_backward(rows, cols, scale, targets, *output)
    ctx.options = both, normalize, workspace_bytes, backend
    ctx.mark_non_differentiable(*output[2:])
    ctx.set_materialize_grads(False)


def _softmax_backward(ctx, row_grad, col_grad, *_):
    rows, cols, scale, targets, *output = ctx.saved_tensors
    both, normalize, workspace_bytes, backend = ctx.options
    wants = ctx.needs_input_grad[:3]
    row, col, factor = ops.softmax_nll_grad(
        row_grad,
        col_grad if both else None,
        rows,
        cols,
        scale,
        targets,
        *output,
        both,
        normalize,
        *wants,
        workspace_bytes,
        backend,
    )
    columns = None if cols is None else _given(wants[1], col, cols)
    return _given(wants[0], row, rows), columns, _given(wants[2], factor, scale), *[None] * 7


def _sigmoid_setup(ctx, inputs, output) -> None:
    ctx.save_for_backward(*inputs[:4])
    ctx.options = inputs[4:]


def _sigmoid_backward(ctx, row_grad):
    normalize, workspace_bytes, backend = ctx.options
    wants = ctx.needs_input_grad[:4]
    _, *gradients = ops.sigmoid_nll_grad(row_grad, *ctx.saved_tensors, normalize, *wants, workspace_bytes, backend)
    given = [_given(w, g, x) for w, g, x in zip(wants, gradients, ctx.saved_tensors, strict=True)]
    return *given, *[None] * 3


def _mean_setup(ctx, inputs, output) -> None:
    _, *gradients = output
    ctx.save_for_backward(*gradients)
    ctx.shapes = [x.shape for x in inputs[:4]]
    ctx.mark_non_differentiable(*gradients)
    ctx.set_materialize_grads(False)


def _mean_backward(ctx, grad, *_):
    if grad is None:
        return (None,) * 11
    wants = ctx.needs_input_grad[:4]
    given = [
        (g * grad.to(g.dtype)).view(shape) if w else None
        for w, g, shape in zip(wants, ctx.saved_tensors, ctx.shapes, strict=True)
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
