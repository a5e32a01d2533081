"""What is usable on this machine, and why the rest is not."""

from __future__ import annotations

import platform

import torch

from clipfast.common.limits import DEFAULT_WORKSPACE_BYTES, limits
from clipfast.compute import native
from clipfast.compute.gemm import cpu_gemm
from clipfast.compute.registry import AUTO, backends, resolve
from clipfast.version import __version__


def report() -> list[tuple[str, str]]:
    """Rows of (subject, finding)."""
    usable = backends()
    chosen, small = "cpu" if usable["cpu"] is None else "torch", limits().single_logits
    rows = [
        ("clipfast", __version__),
        ("python, torch", f"{platform.python_version()}, {torch.__version__}, {torch.get_num_threads()} threads"),
        ("processor", f"{platform.machine()}, torch's level {torch.backends.cpu.get_cpu_capability()}"),
        ("CPU extension", native.load_error() or f"loaded, {native.instruction_set()} loops"),
        ("CUDA extension", native.load_error("cuda") or "loaded"),
        ("Triton", _triton()),
        ("float32 product", cpu_gemm()[1]),
    ]
    rows += [(f"backend {name}", "usable" if reason is None else f"not usable: {reason}") for name, reason in usable.items()]
    rows += [
        ("chosen on the CPU", f"{chosen}; torch for float64 features; one tile or the reference up to {small} logits"),
        ("tile, workspace", f"{limits().tile_side} x {limits().tile_side}, {DEFAULT_WORKSPACE_BYTES // 2**20} MiB"),
    ]
    return rows + _gpu()


def _triton() -> str:
    try:
        import triton
    except ImportError as error:
        return f"not installed ({error})"
    return triton.__version__


def _gpu() -> list[tuple[str, str]]:
    if not torch.cuda.is_available():
        return [("GPU", "none that torch can use")]
    rows = []
    for index in range(torch.cuda.device_count()):
        major, minor = torch.cuda.get_device_capability(index)
        rows.append((f"GPU {index}", f"{torch.cuda.get_device_name(index)}, compute capability {major}.{minor}"))
    features = _features()
    return [*rows, ("chosen on the GPU", _chosen(features)), ("GPU tile, workspace", _tile(features))]


def _features() -> torch.Tensor:
    return torch.empty(1, 8, device="cuda", dtype=torch.bfloat16)


def _chosen(features: torch.Tensor) -> str:
    name = resolve(AUTO, features).name
    if name == "torch":
        return f"torch, because triton does not run: {backends()['triton']}"
    return (
        f"{name}, for half precision and float32; torch for float64 features; cuda only by name: no measurement prefers it yet"
    )


def _tile(features: torch.Tensor) -> str:
    side = limits().macro_side
    text = f"{side} x {side}, {2 * side**2 // 2**20} MiB in half precision"
    if backends()["triton"] is None:
        from clipfast.kernels.tune import block_of

        text += f"; kernel blocks {block_of(features)}"
    return text
