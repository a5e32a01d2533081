"""From a loss's record to its torch operators: schemas, kernels, shapes for tracing, autograd.

``NAME_mean`` gives the mean loss and, in the same call, the gradients that are wanted; its backward only scales them.
``NAME_losses`` gives the losses one by one, and ``NAME_gradients`` the gradients of any weighted sum of those. All take
features of one dtype and give float32 (float64 for float64 features); an unwanted gradient is an empty tensor.
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from clipfast.common.dtypes import compute_dtype
from clipfast.operators.connection import ranks
from clipfast.operators.record import Inputs, LossOperators, MeanResults, Options, Saved, results, schema

NAMESPACE = "clipfast"
_library = torch.library.Library(NAMESPACE, "FRAGMENT")
ops = torch.ops.clipfast
ARGUMENTS = len(Inputs._fields) + len(Options._fields)
DIFFERENTIABLE = 4


def define(declaration: str, kernel: Callable[..., Any], fake: Callable[..., Any]) -> str:
    """An operator whose Python ``kernel`` runs as it is written: no autocast, no graph. Returns its qualified name."""
    name = declaration.partition("(")[0]

    @functools.wraps(kernel)
    def run(*args: Any) -> Any:
        device = args[0].device.type
        with torch.no_grad():
            if not torch.is_autocast_enabled(device):
                return kernel(*args)
            with torch.autocast(device, enabled=False):
                return kernel(*args)

    _library.define(declaration)
    _library.impl(name, run, "CompositeExplicitAutograd")
    torch.library.register_fake(f"{NAMESPACE}::{name}", fake, lib=_library)
    return f"{NAMESPACE}::{name}"


def register(loss: LossOperators) -> None:
    """Define the three operators of ``loss``."""
    name, call = loss.name, schema(Inputs, Options)
    mean = define(f"{name}_mean({call}) -> {results(MeanResults)}", _kernel(loss, loss.family.mean), _mean_fake(loss))
    losses = define(f"{name}_losses({call}) -> {results(Saved)}", _kernel(loss, loss.family.losses), _losses_fake(loss))
    arguments = f"Tensor upstream, {schema(Inputs, Saved, Options)}"
    declaration = f"{name}_gradients({arguments}) -> ({', '.join(['Tensor'] * DIFFERENTIABLE)})"
    gradients = define(declaration, _gradients_kernel(loss), _gradients_fake)
    _autograd(mean, _mean_backward, _mean_setup)
    _autograd(losses, _losses_backward(getattr(ops, f"{name}_gradients")), _losses_setup)
    _autograd(gradients, no_second_derivative)


def split(args: tuple[Any, ...]) -> tuple[Inputs, Options]:
    """The arguments of ``NAME_mean`` and ``NAME_losses``."""
    count = len(Inputs._fields)
    return Inputs(*args[:count]), _options(args[count:])


def _options(args: tuple[Any, ...]) -> Options:
    options = Options(*args)
    if len(options.wants) != DIFFERENTIABLE:
        raise ValueError(f"wants must be {DIFFERENTIABLE} bools, for rows, columns, scale and bias; got {options.wants}")
    return options


def _split_gradients(args: tuple[Any, ...]) -> tuple[Tensor, Inputs, Saved, Options]:
    upstream, *rest = args
    first, last = len(Inputs._fields), len(rest) - len(Options._fields)
    return upstream, Inputs(*rest[:first]), Saved(*rest[first:last]), _options(tuple(rest[last:]))


def _kernel(loss: LossOperators, compute: Callable[[str, Inputs, Options], tuple[Tensor, ...]]) -> Callable[..., Any]:
    """Of ``NAME_mean`` or ``NAME_losses``."""

    def kernel(*args: Any) -> tuple[Tensor, ...]:
        inputs, options = split(args)
        loss.family.check(inputs)
        return tuple(compute(loss.name, inputs, options))

    return kernel


def _gradients_kernel(loss: LossOperators) -> Callable[..., Any]:
    return lambda *args: loss.family.gradients(*_split_gradients(args))


def _mean_fake(loss: LossOperators) -> Callable[..., Any]:
    def fake(*args: Any) -> tuple[Tensor, ...]:
        inputs, options = split(args)
        rows, dtype = inputs.rows, compute_dtype(inputs.rows.dtype)
        gradients = _fake_gradients(inputs, options, lambda x: dtype if x.dim() else x.dtype)
        state = rows.new_empty(loss.family.state(inputs), dtype=torch.float64)
        return rows.new_empty((), dtype=dtype), *gradients, state

    return fake


def _losses_fake(loss: LossOperators) -> Callable[..., Any]:
    def fake(*args: Any) -> tuple[Tensor, ...]:
        inputs, options = split(args)
        rows, dtype = inputs.rows, compute_dtype(inputs.rows.dtype)
        losses = rows.new_empty(loss.family.lines(inputs), dtype=dtype)
        state, shift = rows.new_empty(loss.family.state(inputs), dtype=torch.float64), rows.new_empty((), dtype=torch.float64)
        sizes = torch.empty((2, ranks(options.group)) if options.group else 0, dtype=torch.int64)  # as Exchange.sizes
        kept, layout = rows.new_empty(loss.family.kept(inputs, options), dtype=dtype), torch.empty(3, dtype=torch.int64)
        return losses, state, shift, kept, sizes, layout

    return fake


def _gradients_fake(*args: Any) -> tuple[Tensor, ...]:
    _, inputs, _, options = _split_gradients(args)
    return tuple(_fake_gradients(inputs, options, lambda x: x.dtype))


def _fake_gradients(inputs: Inputs, options: Options, dtype: Callable[[Tensor], torch.dtype]) -> list[Tensor]:
    rows, wanted = inputs.rows, zip(inputs.differentiable, options.wants, strict=True)
    likes = [x if want and x is not None else None for x, want in wanted]
    return [rows.new_empty(0, dtype=dtype(rows)) if x is None else x.new_empty(x.shape, dtype=dtype(x)) for x in likes]


def _mean_setup(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, ...]) -> None:
    ctx.save_for_backward(*output[1 : 1 + DIFFERENTIABLE], *inputs[:DIFFERENTIABLE])
    ctx.mark_non_differentiable(*output[1:])
    ctx.set_materialize_grads(False)


def _mean_backward(ctx: Any, grad: Tensor | None, *_: Any) -> tuple[Tensor | None, ...]:
    given: list[Tensor | None] = [None] * ARGUMENTS
    if grad is None:
        return tuple(given)
    saved = ctx.saved_tensors
    for place, (gradient, like) in enumerate(zip(saved[:DIFFERENTIABLE], saved[DIFFERENTIABLE:], strict=True)):
        if ctx.needs_input_grad[place]:
            given[place] = _scale(gradient.view(like.shape), grad, like)
    return tuple(given)


def _scale(gradient: Tensor, grad: Tensor, like: Tensor) -> Tensor:
    """``grad * gradient`` rounded to the feature's dtype; in place where nothing can see the gradient again."""
    if type(grad) is Tensor and not torch.is_grad_enabled() and not torch._C._autograd._get_current_graph_task_keep_graph():
        known_one = grad.device.type == "cpu" and float(grad) == 1.0
        return (gradient if known_one else gradient.mul_(grad.to(gradient.dtype))).to(like.dtype)
    return ops.scaled(gradient, grad, like)  # an operator, so that a second derivative is an error and not a silent zero


def _losses_setup(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, ...]) -> None:
    call, ctx.options = split(inputs)
    ctx.save_for_backward(*call, *output)
    ctx.mark_non_differentiable(*output[1:])
    ctx.set_materialize_grads(False)


def _losses_backward(gradients: Callable[..., Any]) -> Callable[..., Any]:
    def backward(ctx: Any, grad: Tensor | None, *_: Any) -> tuple[Tensor | None, ...]:
        if grad is None:
            return (None,) * ARGUMENTS
        saved, wants = ctx.saved_tensors, list(ctx.needs_input_grad[:DIFFERENTIABLE])
        found = gradients(grad, *saved, *ctx.options._replace(wants=wants))
        given = [g.view(x.shape) if w else None for w, g, x in zip(wants, found, saved, strict=False)]
        return *given, *[None] * (ARGUMENTS - DIFFERENTIABLE)

    return backward


def no_second_derivative(ctx: Any, *_: Any) -> Any:
    raise RuntimeError(
        "clipfast's fused losses have no second derivative (create_graph=True); use backend='reference', which is "
        "dense and differentiable twice"
    )


def _autograd(qualified: str, backward: Callable[..., Any], setup: Callable[..., None] | None = None) -> None:
    torch.library.register_autograd(qualified, backward, setup_context=setup, lib=_library)


def _scaled(gradient: Tensor, grad: Tensor, like: Tensor) -> Tensor:
    return (gradient * grad.to(gradient.dtype)).to(like.dtype)


_autograd(
    define(
        "scaled(Tensor gradient, Tensor grad, Tensor like) -> Tensor",
        _scaled,
        lambda gradient, grad, like: torch.empty_like(gradient, dtype=like.dtype),
    ),
    no_second_derivative,
)
