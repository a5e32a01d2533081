"""The backends, in order of preference, and who may run what: a predicate gives the reason when it says no."""

from __future__ import annotations

import logging
from functools import cache

from torch import Tensor

from clipfast.common.argument_checks import check_choice
from clipfast.compute.backend_declaration import Declaration, Query
from clipfast.sweep.tile_operations import Backend

log = logging.getLogger("clipfast")

AUTO = "auto"
REFERENCE = Declaration("reference", lambda query: None, make=None)


@cache
def declarations() -> tuple[Declaration, ...]:
    """All backends in order of preference; imported when one is first asked for, since ``import clipfast`` needs none."""
    from clipfast.compute import cpu_backend, cuda_backend, torch_backend, triton_backend

    return (
        triton_backend.TRITON,
        cuda_backend.CUDA,  # only by name until a measurement shows it faster
        cpu_backend.CPU,
        torch_backend.TORCH,
        REFERENCE,
    )


def backends() -> dict[str, str | None]:
    """Every backend with ``None`` where it is usable on this machine, else the reason why it is not."""
    return {declaration.name: declaration.why_not(None) for declaration in declarations()}


def checked(name: str) -> str:
    """``name`` itself, if there is such a backend."""
    check_choice("backend", name, [*(declaration.name for declaration in declarations()), None])
    return name


def resolve(name: str, features: Tensor) -> Backend:
    """The backend ``name`` or, for AUTO, the best one; ValueError with the reason if it cannot run this call."""
    query = Query(features.device.type, features.dtype, int(features.shape[1]) * features.dtype.itemsize)
    if name == AUTO:
        return backend(choose(query))
    if reason := _declaration(name).why_not(query):
        raise ValueError(
            f"backend must be one that can run this call; got {name!r}: {reason}; pass None to let clipfast choose"
        )
    return backend(name)


@cache
def choose(query: Query) -> str:
    """The first backend that can run the call."""
    for declaration in declarations():
        if query.place not in declaration.chosen_on:
            continue
        reason = declaration.why_not(query)
        if reason is None:
            return declaration.name
        log.debug("backend %s passed over for %s: %s", declaration.name, query, reason)
    raise AssertionError("the torch backend runs every call")


@cache
def backend(name: str) -> Backend:
    """The backend ``name``, made when it is first asked for."""
    make = _declaration(name).make
    if make is None:
        raise ValueError(f"backend must be one with tiles; got {name!r}, the dense definition, which a loss runs by itself")
    return make()


def _declaration(name: str) -> Declaration:
    return next(declaration for declaration in declarations() if declaration.name == checked(name))
