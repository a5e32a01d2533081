"""Discover the modules behind a tower: a module, a method of one, or a function that uses some."""

from __future__ import annotations

import functools
import inspect
from collections.abc import Callable, Iterable, Iterator
from typing import Any

from torch import nn
from torch.nn.modules.batchnorm import _BatchNorm


def modules_of(function: Any) -> list[nn.Module]:
    """The modules that a callable is, belongs to, holds, or names in its closure and among its globals."""
    return unique(x for x in _reachable(function) if isinstance(x, nn.Module))


def parameters_of(function: Any) -> list[nn.Parameter]:
    """The parameters of those modules, and the parameters that the callable reaches in the same ways itself."""
    own = [x for x in _reachable(function) if isinstance(x, nn.Parameter)]
    return unique([*own, *(p for module in modules_of(function) for p in module.parameters())])


def unique(values: Iterable[Any]) -> list[Any]:
    """In order, each object once (parameters compare element by element, so that ``set`` would not do)."""
    return list({id(x): x for x in values}.values())


def batch_statistics(modules: Iterable[nn.Module]) -> list[str]:
    """Names of the layers whose result for one row depends on the other rows of its chunk."""
    return [
        name or type(layer).__name__
        for module in modules
        for name, layer in module.named_modules()
        if isinstance(layer, _BatchNorm) and (layer.training or layer.running_mean is None)
    ]


def _reachable(function: Any) -> Iterator[Any]:
    if isinstance(function, nn.Module):
        yield function
    elif inspect.ismethod(function):
        yield from _reachable(function.__self__)
    elif isinstance(function, functools.partial):
        yield from _reachable(function.func)
        yield from (*function.args, *function.keywords.values())
    elif inspect.isfunction(function):
        yield from _closure_and_globals(function)
    else:
        yield from getattr(function, "__dict__", {}).values()


def _closure_and_globals(function: Callable) -> Iterator[Any]:
    try:
        names = inspect.getclosurevars(function)
    except ValueError:  # a closure over a name that has no value yet
        return
    for value in (*names.nonlocals.values(), *names.globals.values()):
        yield from _reachable(value) if inspect.ismethod(value) else [value]
