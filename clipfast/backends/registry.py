"""The backends and who may run what: one predicate each, which gives the reason when it says no.

A backend implements the two tile operations (``exp_sums`` + ``softmax_weights``, and ``sigmoid``) and the two
row-wise ones (``paired_dots``, ``finish_rows``); ``torch_tiles.TorchTiles`` states each as a torch expression.
"""

from __future__ import annotations

import logging
import os
from dataclasses import dataclass
from functools import cache
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from clipfast.backends import native

if TYPE_CHECKING:
    from clipfast.backends.torch_backend import TorchTiles

log = logging.getLogger("clipfast")

HALF = (torch.bfloat16, torch.float16)
FLOATS = (torch.float32, torch.float64, *HALF)


@dataclass(frozen=True)
class Call:
    """What a predicate looks at."""

    device: str
    dtype: torch.dtype
    row_bytes: int = 16


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


TRITON_MINIMUM = (3, 4)


@cache
def _triton_missing() -> str | None:
    try:
        import triton
    except ImportError as error:
        return f"Triton is not installed ({error}); it comes with torch's CUDA builds"
    found = tuple(int(part) for part in triton.__version__.split(".")[:2])
    if found < TRITON_MINIMUM:
        return f"Triton {triton.__version__} is too old for the kernels, which need {'.'.join(map(str, TRITON_MINIMUM))}"
    return None


def interpreted() -> bool:
    """Whether Triton's interpreter stands in for a GPU: slow, on CPU tensors, and only when forced by name."""
    return os.environ.get("TRITON_INTERPRET") == "1"


def _why_not_triton(call: Call | None) -> str | None:
    if _triton_missing():
        return _triton_missing()
    if call is None:
        return None if torch.cuda.is_available() or interpreted() else "torch sees no GPU"
    if call.device != "cuda" and not (call.device == "cpu" and interpreted()):
        return f"it runs on a GPU; the features are on {call.device}"
    if call.dtype == torch.float64:
        return "its products are float32 or narrower; float64 features need the torch backend"
    return None


def _why_not_cuda(call: Call | None) -> str | None:
    reason = native.load_error("cuda")
    if reason:
        return f"the CUDA extension is not available: {reason}"
    if call is None:
        return None if torch.cuda.is_available() else "torch sees no GPU"
    reason = _why_not_triton(call)  # the row-wise operations and the range guard are Triton's
    if reason:
        return reason
    if call.row_bytes % 16:
        return f"its loads take 16 bytes at a time; the features' rows have {call.row_bytes} bytes, no multiple of 16"
    if call.dtype == torch.float32 and not torch.backends.cuda.matmul.allow_tf32:
        return "its float32 products are TF32, which torch.backends.cuda.matmul.allow_tf32 does not allow; triton has IEEE"
    return None


_WHY_NOT = {
    "triton": _why_not_triton,
    "cuda": _why_not_cuda,
    "cpu": _why_not_cpu,
    "torch": _why_not_torch,
    "reference": _why_not_reference,
}
NAMES = tuple(_WHY_NOT)
AUTO = "auto"
ON_CPU, ON_GPU = ("cpu", "torch"), ("triton", "torch")
"""What is chosen by itself, in order of preference: cuda only by name until a measurement shows it faster."""
SINGLE = "single"
SMALL = 384 * 384
"""Up to this many logits (576 KiB) there is no sweep, which would spend more on calls than on arithmetic: plain mean
losses on the CPU run as a single tile (``single.py``), all others as the reference."""


def backends() -> dict[str, str | None]:
    """Every backend with ``None`` where it is usable on this machine, else the reason why it is not."""
    return {name: why_not(None) for name, why_not in _WHY_NOT.items()}


def requested(name: str | None, rows: Tensor, cols: Tensor, plain: bool, group: str = "") -> str:
    """The backend that a public loss asks its operator for: ``name`` or AUTO; SINGLE or "reference" for small batches.

    ``plain``: the mean loss, row i with column i, nothing else asked for; ``group``: the process group's name, "" for none.
    No predicate runs here: under torch.compile they belong inside the operator, which resolves the name.
    """
    if group:
        if name == "reference":
            raise ValueError("backend='reference' is dense and runs in one process; with a group pass another, or None")
        if name is None:
            return AUTO  # for small batches too: the other ranks' columns are not here
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
    call = Call(features.device.type, features.dtype, int(features.shape[1]) * features.dtype.itemsize)
    if name == AUTO:
        name = _choose(call)
    elif reason := _WHY_NOT[name](call):
        raise ValueError(f"backend={name!r} cannot run this call: {reason}. Pass backend=None to let clipfast choose")
    return tile_operations(name)


@cache
def _choose(call: Call) -> str:
    for name in ON_CPU if call.device == "cpu" else ON_GPU:
        reason = _WHY_NOT[name](call)
        if reason is None:
            return name
        log.debug("backend %s passed over for %s: %s", name, call, reason)
    raise AssertionError("the torch backend runs every call")


@cache
def tile_operations(name: str) -> TorchTiles:
    """The object with the tile operations of backend ``name``."""
    if name == "cpu":
        from clipfast.backends.cpu_backend import CpuTiles

        return CpuTiles()
    if name == "triton":
        from clipfast.backends.triton_backend import TritonTiles

        return TritonTiles()
    if name == "cuda":
        from clipfast.backends.cuda_backend import CudaTiles

        return CudaTiles()
    from clipfast.backends.torch_backend import TorchTiles

    return TorchTiles()
