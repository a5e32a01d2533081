"""The losses as torch operators: schemas, shapes for tracing, autograd. What they compute is in softmax.py and sigmoid.py.

``*_mean`` give the mean loss and, in the same call, the gradients that are wanted; their backward only scales them.
``*_nll`` give the losses one by one, and ``*_nll_grad`` the gradients of any weighted sum of those. All take features of
one dtype and a 0-d ``scale``, and give float32 (float64 for float64 features); an unwanted gradient is an empty tensor.

With the name of a process group they exchange columns with its ranks: rows, columns, losses and gradients are this rank's,
gradients those of the sum of all ranks' losses. ``sizes`` saves the backward call from asking for the ranks' batches again.
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from clipfast.backends.registry import FLOATS, resolve
from clipfast.distributed.exchange import Alone, Exchange
from clipfast.operators.connection import connect, group_sum, ranks
from clipfast.sweep import sigmoid_pass as sigmoid
from clipfast.sweep import softmax_passes as softmax
from clipfast.sweep import softmax_strips as softmax_mean
from clipfast.sweep.epilogue import Gradients
from clipfast.sweep.pairs import compute_dtype, number_of_pairs
from clipfast.sweep.products import Wanted
from clipfast.sweep.sweep import Sweep
from clipfast.sweep.tiling import Budget

_SOFTMAX = "Tensor rows, Tensor? cols, Tensor scale, Tensor? targets, bool both, bool normalize"
_SIGMOID = "Tensor rows, Tensor cols, Tensor scale, Tensor bias, bool normalize"
_WANTS = "bool want_rows, bool want_cols, bool want_scale"
_END = "int? workspace_bytes, str backend"
_GROUP = "str group, str strategy"
_library = torch.library.Library("clipfast", "DEF")
for _schema in (
    f"softmax_mean({_SOFTMAX}, bool best, {_WANTS}, {_END}) -> (Tensor, Tensor, Tensor, Tensor, Tensor)",
    f"softmax_nll({_SOFTMAX}, bool best, {_WANTS}, {_END}, {_GROUP}) "
    "-> (Tensor nll, Tensor state, Tensor shift, Tensor kept, Tensor sizes)",
    f"softmax_nll_grad(Tensor grad, {_SOFTMAX}, Tensor nll, Tensor state, Tensor shift, Tensor kept, Tensor sizes, {_WANTS}, "
    f"{_END}, {_GROUP}) -> (Tensor, Tensor, Tensor)",
    f"sigmoid_mean({_SIGMOID}, {_WANTS}, bool want_bias, {_END}, {_GROUP}) -> (Tensor, Tensor, Tensor, Tensor, Tensor)",
    f"sigmoid_nll({_SIGMOID}, {_WANTS}, bool want_bias, {_END}, {_GROUP}) -> (Tensor nll, Tensor sizes)",
    f"sigmoid_nll_grad(Tensor grad, {_SIGMOID}, Tensor sizes, {_WANTS}, bool want_bias, {_END}, {_GROUP}) "
    "-> (Tensor, Tensor, Tensor, Tensor)",
    "scaled(Tensor gradient, Tensor grad, Tensor like) -> Tensor",
    "group_sum(Tensor share, str group, int factor) -> Tensor",
):
    _library.define(_schema)
ops = torch.ops.clipfast


def _kernel(name: str) -> Callable[[Callable], Callable]:
    """Register a Python kernel that runs as it is written: no autocast, no graph."""

    def register(function: Callable) -> Callable:
        @functools.wraps(function)
        def run(*args: Any) -> Any:
            device = args[0].device.type
            with torch.no_grad():
                if not torch.is_autocast_enabled(device):
                    return function(*args)
                with torch.autocast(device, enabled=False):
                    return function(*args)

        _library.impl(name, run, "CompositeExplicitAutograd")
        return function

    return register


def _wide(x: Tensor) -> Tensor:
    """Features as computed with: what ``*_mean`` give is rounded once, after the gradient from above has scaled it."""
    return x.to(compute_dtype(x.dtype))


def _out(sweep: Sweep, dtype: torch.dtype, gradients: Gradients) -> list[Tensor]:
    """The features' gradients as an operator returns them."""
    return [sweep.pairs.rows.x.new_empty(0, dtype=dtype) if g is None else g for g in gradients[:2]]


def _scalar(like: Tensor, gradient: Tensor | None) -> Tensor:
    return like.new_empty(0) if gradient is None else gradient.to(like.dtype)


def _state(lines: softmax.Lines) -> Tensor:
    return torch.stack([lines.lse, lines.positive, lines.lse if lines.best is None else lines.best])


@_kernel("softmax_mean")
def _softmax_mean(
    rows, cols, scale, targets, both, normalize, best, want_rows, want_cols, want_scale, workspace_bytes, backend
):
    exchange = Alone(rows.shape[0], (rows if cols is None else cols).shape[0])
    rows, cols = resolve(backend, rows).widened(rows, cols)
    sweep = Sweep.over(rows, cols, scale, targets, both, normalize, workspace_bytes, backend, exchange)
    wanted, dtype = Wanted(want_rows, want_cols, want_scale), sweep.pairs.dtype
    unpaired = sweep.pairs.unpaired_lines()
    count = number_of_pairs(sweep.pairs.lines - (0 if unpaired is None else int(unpaired.sum())))
    share = sweep.pairs.row_factor.new_full((sweep.pairs.lines,), 1 / count)
    lines, g = softmax_mean.mean(sweep, wanted, share, best, dtype)
    return (lines.nll.sum() / count).to(dtype), *_out(sweep, dtype, g), _scalar(scale, g.scale), _state(lines)


@_kernel("softmax_nll")
def _softmax_nll(
    rows, cols, scale, targets, both, normalize, best, want_rows, want_cols, want_scale, workspace_bytes, backend, group,
    strategy,
):  # fmt: skip
    wanted = Wanted(want_rows, want_cols, want_scale)
    call = "softmax" if cols is not None else "softmax of views"
    options = {"directions": 1 + both, "normalize": normalize, "return_stats": best}
    exchange = _exchange(call, group, strategy, rows, cols, wanted, {"scale": scale}, **options)
    sweep = Sweep.over(rows, cols, scale, targets, both, normalize, workspace_bytes, backend, exchange)
    kept = sweep.kept(wanted.any)
    lines = softmax.forward(sweep, kept, best)
    return lines.nll.to(sweep.pairs.dtype), _state(lines), lines.shift, kept, exchange.sizes


@_kernel("softmax_nll_grad")
def _softmax_nll_grad(
    grad, rows, cols, scale, targets, both, normalize, nll, state, shift, kept, sizes, want_rows, want_cols, want_scale,
    workspace_bytes, backend, group, strategy,
):  # fmt: skip
    exchange = connect(group, strategy, rows, rows if cols is None else cols, sizes=sizes)
    sweep = Sweep.over(rows, cols, scale, targets, both, normalize, workspace_bytes, backend, exchange)
    wanted = Wanted(want_rows, want_cols, want_scale)
    share = grad.double().contiguous()
    g = softmax.backward(sweep, wanted, share, nll.double(), state[0], shift, kept, consume=False, dtype=rows.dtype)
    return *_out(sweep, rows.dtype, g), _scalar(scale, g.scale)


@_kernel("sigmoid_mean")
def _sigmoid_mean(
    rows, cols, scale, bias, normalize, want_rows, want_cols, want_scale, want_bias, workspace_bytes, backend, group, strategy
):  # fmt: skip
    wanted = Wanted(want_rows, want_cols, want_scale, want_bias)
    exchange = _exchange(
        "mean of sigmoids", group, strategy, rows, cols, wanted, {"scale": scale, "bias": bias}, normalize=normalize
    )
    rows, cols = resolve(backend, rows).widened(rows, cols)
    share = rows.new_full((rows.shape[0],), 1 / exchange.total_rows(), dtype=torch.float64)
    dtype = compute_dtype(rows.dtype)
    sweep = Sweep.over(rows, cols, scale, None, True, normalize, workspace_bytes, backend, exchange)
    loss, g, by_bias = sigmoid.run(sweep, bias, share, wanted, dtype)
    return (loss.sum() / exchange.total_rows()).to(dtype), *_sigmoid_gradients(sweep, dtype, scale, bias, g, by_bias, wanted)


@_kernel("sigmoid_nll")
def _sigmoid_nll(
    rows, cols, scale, bias, normalize, want_rows, want_cols, want_scale, want_bias, workspace_bytes, backend, group, strategy
):  # fmt: skip
    wanted = Wanted(want_rows, want_cols, want_scale, want_bias)
    exchange = _exchange("sigmoids", group, strategy, rows, cols, wanted, {"scale": scale, "bias": bias}, normalize=normalize)
    sweep = Sweep.over(rows, cols, scale, None, True, normalize, workspace_bytes, backend, exchange)
    loss, _, _ = sigmoid.run(sweep, bias, None, Wanted(False, False, False), rows.dtype)
    return loss.to(compute_dtype(rows.dtype)), exchange.sizes


@_kernel("sigmoid_nll_grad")
def _sigmoid_nll_grad(
    grad, rows, cols, scale, bias, normalize, sizes, want_rows, want_cols, want_scale, want_bias, workspace_bytes, backend,
    group, strategy,
):  # fmt: skip
    wanted, exchange = Wanted(want_rows, want_cols, want_scale, want_bias), connect(group, strategy, rows, cols, sizes=sizes)
    sweep = Sweep.over(rows, cols, scale, None, True, normalize, workspace_bytes, backend, exchange)
    _, g, by_bias = sigmoid.run(sweep, bias, grad, wanted, rows.dtype)
    return _sigmoid_gradients(sweep, rows.dtype, scale, bias, g, by_bias, wanted)


def _sigmoid_gradients(sweep, dtype, scale, bias, g: Gradients, by_bias: Tensor, wanted: Wanted) -> tuple[Tensor, ...]:
    return *_out(sweep, dtype, g), _scalar(scale, g.scale), _scalar(bias, by_bias if wanted.bias else None)


def _exchange(
    call: str, group: str, strategy: str, rows: Tensor, cols: Tensor | None, wanted: Wanted, scalars: dict[str, Tensor],
    **options: float,
) -> Exchange:  # fmt: skip
    """The ranks of a forward call, which must agree on everything but their batches."""
    bits = sum(want << i for i, want in enumerate((wanted.rows, wanted.cols, wanted.scale, wanted.bias)))
    options["gradients wanted (1 for rows, 2 columns, 4 scale, 8 bias)"] = bits
    options[f"dtype (an index of {FLOATS})"] = FLOATS.index(rows.dtype)
    return connect(group, strategy, rows, rows if cols is None else cols, call, options, scalars)


@_kernel("group_sum")
def _group_sum(share, group, factor):
    return group_sum(share, group)


@_kernel("scaled")
def _scaled(gradient, grad, like):
    return (gradient * grad.to(gradient.dtype)).to(like.dtype)


def _fakes(*wants: tuple[Tensor, bool]) -> list[Tensor]:
    return [like.new_empty(like.shape) if wanted else like.new_empty(0) for like, wanted in wants]


@torch.library.register_fake("clipfast::softmax_mean")
def _(rows, cols, scale, targets, both, normalize, best, want_rows, want_cols, want_scale, workspace_bytes, backend):
    other = rows if cols is None else cols
    lines = rows.shape[0] + other.shape[0] if both else rows.shape[0]
    gradients = _fakes((_wide(rows), want_rows), (_wide(other), want_cols), (scale, want_scale))
    return rows.new_empty((), dtype=compute_dtype(rows.dtype)), *gradients, rows.new_empty(3, lines, dtype=torch.float64)


def _sizes(group: str) -> Tensor:
    """As ``Exchange.sizes``."""
    return torch.empty((2, ranks(group)) if group else 0, dtype=torch.int64)


@torch.library.register_fake("clipfast::softmax_nll")
def _(
    rows, cols, scale, targets, both, normalize, best, want_rows, want_cols, want_scale, workspace_bytes, backend, group,
    strategy,
):  # fmt: skip
    dtype = compute_dtype(rows.dtype)
    m, n = rows.shape[0], (rows if cols is None else cols).shape[0]
    copied = rows.numel() if cols is None else 0
    budget = Budget(workspace_bytes, dtype.itemsize, int(rows.shape[1]), rows.device.type)
    keep = want_rows or want_cols or want_scale
    lines = m + n if both else m
    state, shift = rows.new_empty(3, lines, dtype=torch.float64), rows.new_empty((), dtype=torch.float64)
    kept = rows.new_empty(budget.kept_elements(m, None if group else n, copied) if keep else 0, dtype=dtype)
    return rows.new_empty(lines, dtype=dtype), state, shift, kept, _sizes(group)


@torch.library.register_fake("clipfast::softmax_nll_grad")
def _(
    grad, rows, cols, scale, targets, both, normalize, nll, state, shift, kept, sizes, want_rows, want_cols, want_scale,
    workspace_bytes, backend, group, strategy,
):  # fmt: skip
    return tuple(_fakes((rows, want_rows), (rows if cols is None else cols, want_cols), (scale, want_scale)))


@torch.library.register_fake("clipfast::sigmoid_mean")
def _(
    rows, cols, scale, bias, normalize, want_rows, want_cols, want_scale, want_bias, workspace_bytes, backend, group, strategy
):  # fmt: skip
    loss = rows.new_empty((), dtype=compute_dtype(rows.dtype))
    return loss, *_fakes((_wide(rows), want_rows), (_wide(cols), want_cols), (scale, want_scale), (bias, want_bias))


@torch.library.register_fake("clipfast::sigmoid_nll")
def _(
    rows, cols, scale, bias, normalize, want_rows, want_cols, want_scale, want_bias, workspace_bytes, backend, group, strategy
):  # fmt: skip
    return rows.new_empty(rows.shape[0], dtype=compute_dtype(rows.dtype)), _sizes(group)


@torch.library.register_fake("clipfast::sigmoid_nll_grad")
def _(
    grad, rows, cols, scale, bias, normalize, sizes, want_rows, want_cols, want_scale, want_bias, workspace_bytes, backend,
    group, strategy,
):  # fmt: skip
    return tuple(_fakes((rows, want_rows), (cols, want_cols), (scale, want_scale), (bias, want_bias)))


@torch.library.register_fake("clipfast::group_sum")
def _(share, group, factor):
    return torch.empty_like(share)


@torch.library.register_fake("clipfast::scaled")
def _(gradient, grad, like):
    return torch.empty_like(gradient, dtype=like.dtype)


def _save(ctx, inputs: tuple, tensors: int, output: tuple[Tensor, ...]) -> None:
    """For ``*_nll``: the first inputs and what the forward pass leaves, all for the operator that ends in ``_grad``."""
    ctx.save_for_backward(*inputs[:tensors], *output)
    ctx.options = inputs[tensors:]
    ctx.mark_non_differentiable(*output[1:])
    ctx.set_materialize_grads(False)


def _given(wants, gradients, likes) -> list[Tensor | None]:
    return [g.view(x.shape) if w else None for w, g, x in zip(wants, gradients, likes, strict=False)]


def _softmax_setup(ctx, inputs, output) -> None:
    _save(ctx, inputs, 4, output)


def _softmax_backward(ctx, grad, *_):
    if grad is None:
        return (None,) * 14
    saved, wants = ctx.saved_tensors, ctx.needs_input_grad[:3]
    both, normalize, _, _, _, _, *end = ctx.options
    gradients = ops.softmax_nll_grad(grad, *saved[:4], both, normalize, *saved[4:], *wants, *end)
    return *_given(wants, gradients, saved), *[None] * 11


def _sigmoid_setup(ctx, inputs, output) -> None:
    _save(ctx, inputs, 4, output)


def _sigmoid_backward(ctx, grad, _):
    if grad is None:
        return (None,) * 13
    *saved, _, sizes = ctx.saved_tensors
    wants = ctx.needs_input_grad[:4]
    normalize, _, _, _, _, *end = ctx.options
    gradients = ops.sigmoid_nll_grad(grad, *saved, normalize, sizes, *wants, *end)
    return *_given(wants, gradients, saved), *[None] * 9


def _mean_setup(ctx, inputs, output, places: int) -> None:
    """``places``: how many of the first inputs have gradients; those follow the loss in the same order."""
    ctx.places, ctx.arguments = places, len(inputs)
    ctx.save_for_backward(*output[1 : 1 + places], *inputs[:places])
    ctx.mark_non_differentiable(*output[1:])
    ctx.set_materialize_grads(False)


def _mean_backward(ctx, grad, *_):
    given: list[Tensor | None] = [None] * ctx.arguments
    if grad is None:
        return tuple(given)
    gradients, likes = ctx.saved_tensors[: ctx.places], ctx.saved_tensors[ctx.places :]
    for place, (gradient, like) in enumerate(zip(gradients, likes, strict=True)):
        if ctx.needs_input_grad[place]:
            given[place] = _scale(gradient.view(like.shape), grad, like)
    return tuple(given)


def _scale(gradient: Tensor, grad: Tensor, like: Tensor) -> Tensor:
    """``grad * gradient`` rounded to the feature's dtype; in place where nothing can see the gradient again."""
    if type(grad) is Tensor and not torch.is_grad_enabled() and not torch._C._autograd._get_current_graph_task_keep_graph():
        known_one = grad.device.type == "cpu" and float(grad) == 1.0
        return (gradient if known_one else gradient.mul_(grad.to(gradient.dtype))).to(like.dtype)
    return ops.scaled(gradient, grad, like)  # an operator, so that a second derivative is an error and not a silent zero


def _sum_setup(ctx, inputs, output) -> None:
    ctx.factor = inputs[2]


def _sum_backward(ctx, grad):
    return grad * ctx.factor, None, None


def _no_second_derivative(ctx, *_):
    raise RuntimeError(
        "clipfast's fused losses have no second derivative (create_graph=True); use backend='reference', which is "
        "dense and differentiable twice"
    )


def _register(name: str, backward: Callable, setup: Callable | None = None) -> None:
    torch.library.register_autograd(f"clipfast::{name}", backward, setup_context=setup)


_register("softmax_nll", _softmax_backward, _softmax_setup)
_register("sigmoid_nll", _sigmoid_backward, _sigmoid_setup)
_register("group_sum", _sum_backward, _sum_setup)
_register("softmax_mean", _mean_backward, lambda ctx, inputs, output: _mean_setup(ctx, inputs, output, places=3))
_register("sigmoid_mean", _mean_backward, lambda ctx, inputs, output: _mean_setup(ctx, inputs, output, places=4))
for _name in ("softmax_nll_grad", "sigmoid_nll_grad", "scaled"):
    _register(_name, _no_second_derivative)
