"""What is usable on this machine, and why the rest is not."""

from __future__ import annotations

import platform

import torch

from clipfast.common.limits import limits
from clipfast.compute import native
from clipfast.compute.gemm import cpu_gemm
from clipfast.compute.registry import AUTO, backends, declarations, resolve
from clipfast.sweep.schedule import Budget
from clipfast.version import __version__

WIDTH = 8  # of the features that are asked about; any would do


def report() -> list[tuple[str, str]]:
    """Rows of (subject, finding)."""
    rows = [
        ("clipfast", __version__),
        ("python, torch", f"{platform.python_version()}, {torch.__version__}, {torch.get_num_threads()} threads"),
        ("processor", f"{platform.machine()}, torch's level {torch.backends.cpu.get_cpu_capability()}"),
        ("CPU extension", native.load_error() or f"loaded, {native.instruction_set()} loops"),
        ("CUDA extension", native.load_error("cuda") or "loaded"),
        ("Triton", _triton()),
        ("float32 product", cpu_gemm()[1]),
    ]
    rows += [
        (f"backend {name}", "usable" if reason is None else f"not usable: {reason}") for name, reason in backends().items()
    ]
    features = torch.empty(1, WIDTH)
    chosen, wide = resolve(AUTO, features).name, resolve(AUTO, features.double()).name
    small = limits().single_logits
    rows += [
        ("chosen on the CPU", f"{chosen}; {wide} for float64 features; one tile or the reference up to {small} logits"),
        ("tile, workspace", _tile(features)),
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
    return [*rows, ("chosen on the GPU", _chosen(features)), ("GPU tile, workspace", _gpu_tile(features))]


def _features() -> torch.Tensor:
    return torch.empty(1, WIDTH, device="cuda", dtype=torch.bfloat16)


def _chosen(features: torch.Tensor) -> str:
    """Which backend an accelerator gets, and why, if that is not the preferred one."""
    name, wide = resolve(AUTO, features).name, resolve(AUTO, features.double()).name
    preferred = next(declaration.name for declaration in declarations() if "accelerator" in declaration.chosen_on)
    if name != preferred:
        return f"{name}, because {preferred} does not run: {backends()[preferred]}"
    by_name = ", ".join(declaration.name for declaration in declarations() if declaration.make and not declaration.chosen_on)
    return (
        f"{name}, for half precision and float32; {wide} for float64 features; {by_name} only by name: no measurement prefers "
        "it yet"
    )


def _gpu_tile(features: torch.Tensor) -> str:
    text = f"{_tile(features)} in half precision"
    if backends()["triton"] is None:
        from clipfast.kernels.tune import block_of

        text += f"; kernel blocks {block_of(features)}"
    return text


def _tile(features: torch.Tensor) -> str:
    budget = Budget(None, features.element_size(), features.shape[1], features.device.type)
    return f"{budget.side} x {budget.side}, {budget.default // 2**20} MiB"
