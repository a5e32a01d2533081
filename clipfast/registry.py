"""The backends and who may run what: one predicate each, which gives the reason when it says no.

A backend implements the two tile operations (``exp_sums`` + ``softmax_weights``, and ``sigmoid``) and the two
row-wise ones (``paired_dots``, ``finish_rows``); ``torch_tiles.TorchTiles`` states each as a torch expression.
"""

from __future__ import annotations

import logging
from dataclasses import dataclass
from functools import cache
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from clipfast import native

if TYPE_CHECKING:
    from clipfast.tiles.torch_tiles import TorchTiles

log = logging.getLogger("clipfast")

HALF = (torch.bfloat16, torch.float16)
FLOATS = (torch.float32, torch.float64, *HALF)


@dataclass(frozen=True)
class Call:
    """What a predicate looks at."""

    device: str
    dtype: torch.dtype


def _why_not_reference(call: Call | None) -> str | None:
    return None


def _why_not_torch(call: Call | None) -> str | None:
    return None


def _why_not_cpu(call: Call | None) -> str | None:
    if native.load_error():
        return f"the CPU extension is not available: {native.load_error()}"
    if call is None:
        return None
    if call.device != "cpu":
        return f"it runs on the CPU; the features are on {call.device}"
    if call.dtype == torch.float64:
        return "it computes in float32; float64 features need the torch backend"
    return None


_WHY_NOT = {"cpu": _why_not_cpu, "torch": _why_not_torch, "reference": _why_not_reference}
NAMES = tuple(_WHY_NOT)
AUTO = "auto"
AUTOMATIC = ("cpu", "torch")  # in order of preference
SINGLE = "single"
SMALL = 192 * 192
"""Up to this many logits (144 KiB) there is no sweep, which would spend more on calls than on arithmetic: plain mean
losses on the CPU run as a single tile (``single.py``), all others as the reference."""


def backends() -> dict[str, str | None]:
    """Every backend with ``None`` where it is usable on this machine, else the reason why it is not."""
    return {name: why_not(None) for name, why_not in _WHY_NOT.items()}


def requested(name: str | None, rows: Tensor, cols: Tensor, plain: bool) -> str:
    """The backend that a public loss asks its operator for: ``name`` or AUTO; SINGLE or "reference" for small batches.

    ``plain``: the mean loss, row i with column i, nothing else asked for. No predicate runs here: under torch.compile they belong inside the operator, which resolves the name.
    """
    if name is None:
        # A compiled graph serves every batch size, so it must not branch on the size.
        small = not torch.compiler.is_compiling() and rows.shape[0] * cols.shape[0] <= SMALL
        if not small:
            return AUTO
        single = plain and rows.is_cpu and rows.dtype != torch.float64 and native.load_error() is None
        return SINGLE if single else "reference"
    if name not in NAMES:
        raise ValueError(f"backend={name!r} is unknown; accepted: {', '.join(NAMES)}, or None to let clipfast choose")
    return name


def resolve(name: str, features: Tensor) -> TorchTiles:
    """The tile operations of backend ``name`` or, for AUTO, of the best one; ValueError with the reason if it cannot run."""
    call = Call(features.device.type, features.dtype)
    if name == AUTO:
        name = _choose(call)
    elif reason := _WHY_NOT[name](call):
        raise ValueError(f"backend={name!r} cannot run this call: {reason}. Pass backend=None to let clipfast choose")
    return tile_operations(name)


@cache
def _choose(call: Call) -> str:
    for name in AUTOMATIC:
        reason = _WHY_NOT[name](call)
        if reason is None:
            return name
        log.debug("backend %s passed over for %s: %s", name, call, reason)
    raise AssertionError("the torch backend runs every call")


@cache
def tile_operations(name: str) -> TorchTiles:
    """The object with the tile operations of backend ``name``."""
    if name == "cpu":
        from clipfast.tiles.cpu_tiles import CpuTiles

        return CpuTiles()
    from clipfast.tiles.torch_tiles import TorchTiles

    return TorchTiles()
