"""Median times of interleaved runs, peak memory beyond the inputs, and the rate of plain products in the same process."""

from __future__ import annotations

import ctypes
import functools
import gc
import platform
import statistics
import time
from collections.abc import Callable
from pathlib import Path

import torch
from torch import Tensor

from clipfast.bench.cases import Case, LossOfScale, cases, features
from clipfast.common.dtypes import compute_dtype, name_of
from clipfast.common.limits import DEFAULT_WORKSPACE_BYTES
from clipfast.compute.gemm import OneDnnGemm, cpu_gemm
from clipfast.losses.declaration import named

STATUS, MEMINFO = Path("/proc/self/status"), Path("/proc/meminfo")
GUESSED_BYTES = 8 * 2**30


def step(loss: LossOfScale, inputs: tuple[Tensor, ...]) -> None:
    """Forward and backward, from empty gradients."""
    for x in inputs:
        x.grad = None
    loss(*inputs).backward()


def seconds(run: Callable[[], object]) -> float:
    start = time.perf_counter()
    run()
    return time.perf_counter() - start


def peak_bytes(run: Callable[[], object]) -> int | None:
    """Peak resident memory of ``run`` above what was resident before it; None where the system does not tell (not Linux)."""
    if not STATUS.exists():
        return None
    gc.collect()
    ctypes.CDLL(None).malloc_trim(0)  # or the allocator would serve the run from memory that is resident already
    Path("/proc/self/clear_refs").write_text("5")  # resets the high-water mark
    before = _entry(STATUS, "VmRSS")
    run()
    return _entry(STATUS, "VmHWM") - before


def _entry(table: Path, name: str) -> int:
    """Bytes of the line ``name: COUNT kB``."""
    line = next(line for line in table.read_text().splitlines() if line.startswith(name))
    return int(line.split()[1]) * 1024


def available_bytes() -> int:
    """Memory that a run may take: what the system says is available, or a guess where it does not tell (not Linux)."""
    return _entry(MEMINFO, "MemAvailable") if MEMINFO.exists() else GUESSED_BYTES


def product_rates(dim: int, dtype: torch.dtype, side: int = 2048) -> dict[str, float]:
    """Operations per second of ``(side, dim) @ (dim, side)`` in the compute dtype, by each library that is there."""
    a, b = (torch.randn(side, dim, dtype=compute_dtype(dtype)) for _ in range(2))
    out = torch.empty(side, side, dtype=a.dtype)
    products: dict[str, Callable[[], object]] = {"torch.mm": lambda: torch.mm(a, b.t(), out=out)}
    gemm, _ = cpu_gemm()
    if isinstance(gemm, OneDnnGemm) and a.dtype == torch.float32:
        products["oneDNN"] = lambda: gemm.scores(a, b, out)
    times: dict[str, list[float]] = {name: [] for name in products}
    for _ in range(12):
        for name, run in products.items():
            times[name].append(seconds(run))
    return {name: 2 * side * side * dim / statistics.median(t[2:]) for name, t in times.items()}


def compare(
    loss: str,
    n: int,
    dim: int,
    dtype: torch.dtype = torch.float32,
    compiled: bool = True,
    workspace_bytes: int = DEFAULT_WORKSPACE_BYTES,
    budget_seconds: float = 10.0,
    contenders: list[Case] | None = None,
) -> dict:
    """One size: each contender's median time, peak memory and share of the floor, as plain values for JSON."""
    inputs = features(n, dim, dtype)
    found = cases(loss, compiled, workspace_bytes) if contenders is None else contenders
    declared = named(loss)
    logits_bytes = (declared.views * n) ** 2 * compute_dtype(dtype).itemsize
    fits = [c for c in found if c.matrices * logits_bytes < 0.8 * available_bytes()]
    peaks = {c.name: _warm(c, inputs) for c in fits}
    times: dict[str, list[float]] = {c.name: [] for c in fits}
    rates = product_rates(dim, dtype)
    start = time.perf_counter()
    while min(map(len, times.values())) < 3 or (
        time.perf_counter() - start < budget_seconds and len(times[fits[0].name]) < 101
    ):
        for c in fits:
            times[c.name].append(seconds(functools.partial(step, c.loss, inputs)))
    floors = {name: declared.least_products * n * n * dim / rate for name, rate in rates.items()}
    rows = [_row(c.name, times.get(c.name), peaks.get(c.name), floors) for c in found]
    return {
        "loss": loss, "n": n, "dim": dim, "dtype": name_of(dtype), "workspace_bytes": workspace_bytes,
        "product_gflops": {name: rate / 1e9 for name, rate in rates.items()}, "results": rows,
    }  # fmt: skip


def _warm(case: Case, inputs: tuple[Tensor, ...]) -> int | None:
    """One run that is not counted (compilation, caches), then the peak memory of another."""
    step(case.loss, inputs)
    for x in inputs:
        x.grad = None
    return peak_bytes(lambda: step(case.loss, inputs))


def _row(name: str, times: list[float] | None, peak: int | None, floors: dict[str, float]) -> dict:
    if times is None:
        return {"name": name, "skipped": "its logits do not fit in memory"}
    median = statistics.median(times)
    shares = {library: floor / median for library, floor in floors.items()}
    return {
        "name": name,
        "median_s": median,
        "min_s": min(times),
        "runs": len(times),
        "peak_bytes": peak,
        "floor_share": shares,
    }


def environment() -> dict:
    """Hardware and versions, for the record."""
    cpuinfo = Path("/proc/cpuinfo")
    lines = cpuinfo.read_text().splitlines() if cpuinfo.exists() else []
    processor = next((line.split(":")[1].strip() for line in lines if line.startswith("model name")), platform.processor())
    return {
        "processor": processor,
        "level": torch.backends.cpu.get_cpu_capability(),
        "threads": torch.get_num_threads(),
        "python": platform.python_version(),
        "torch": torch.__version__,
        "system": f"{platform.system()} {platform.machine()}",
    }
