"""What is usable on this machine, and why the rest is not."""

from __future__ import annotations

import platform

import torch

import clipfast
from clipfast import native
from clipfast.gemm import cpu_gemm
from clipfast.registry import AUTOMATIC, SMALL
from clipfast.tiling import DEFAULT_WORKSPACE_BYTES, TILE_SIDE


def report() -> list[tuple[str, str]]:
    """Rows of (subject, finding)."""
    usable = clipfast.backends()
    chosen = next(name for name in AUTOMATIC if usable[name] is None)
    rows = [
        ("clipfast", clipfast.__version__),
        ("python, torch", f"{platform.python_version()}, {torch.__version__}, {torch.get_num_threads()} threads"),
        ("processor", f"{platform.machine()}, torch's level {torch.backends.cpu.get_cpu_capability()}"),
        ("CPU extension", native.load_error() or f"loaded, {native.instruction_set()} loops"),
        ("float32 product", cpu_gemm()[1]),
    ]
    rows += [(f"backend {name}", "usable" if reason is None else f"not usable: {reason}") for name, reason in usable.items()]
    rows += [
        ("chosen on the CPU", f"{chosen}; torch for float64 features; one tile or the reference up to {SMALL} logits"),
        ("tile, workspace", f"{TILE_SIDE} x {TILE_SIDE}, {DEFAULT_WORKSPACE_BYTES // 2**20} MiB"),
        ("GPU", _gpu()),
    ]
    return rows


def _gpu() -> str:
    if not torch.cuda.is_available():
        return "none that torch can use"
    return f"{torch.cuda.get_device_name()}; the torch backend runs there (no GPU kernels in this version)"
