"""The machine's figures measured where the command runs."""

from __future__ import annotations

import functools
import json
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch

from clipfast.bench.cases import features, fused
from clipfast.bench.measure import available_bytes, product_rates, step
from clipfast.common.dtypes import name_of
from clipfast.compute.gemm import cpu_gemm
from clipfast.plan import operations
from clipfast.plan.machine import MEASURED, Machine
from clipfast.plan.problem import Problem

Clock = Callable[[], float]
RUNS = 5
BATCH = {"cpu": 3072, "cuda": 65_536}
"""Pairs of the step that is timed for ``sweep_share``: too many for a single tile."""
OVERHEAD_PAIRS, OVERHEAD_DIM = 1024, 8
COPIED_BYTES = {"cpu": 2**27, "cuda": 2**31}
LINK_SECONDS = 60.0
UNMEASURED = "the link between two processes could not be measured"


def measured(machine: Machine, loss: str, dim: int, dtype: str, clock: Clock = time.perf_counter) -> Machine:
    """``machine`` with every figure that can be measured here; a link needs two processes on the CPU, or two GPUs.

    ``clock`` times the loss: ``time.process_time`` with one thread leaves out what other programs do.
    """
    kind = getattr(torch, dtype)
    rate = _product_rate(machine.device, dim, kind)
    overhead = _tile_seconds(machine.device, loss, kind, clock)
    figures: dict[str, Any] = {
        "product_tflops": rate / 1e12,
        "tile_us": overhead * 1e6,
        "sweep_share": _share(machine.device, loss, dim, dtype, rate, overhead, clock),
        "copy_gb_s": _copy_rate(machine.device) / 1e9,
        "memory_gib": _memory(machine.device) / 2**30,
    }
    if machine.device == "cpu" or torch.cuda.device_count() > 1:
        figures |= link(machine.device)
    return machine.updated(MEASURED, **figures)


def timed(run: Callable[[], object], device: str, clock: Clock = time.perf_counter) -> float:
    """Seconds of the fastest run, after one that does not count: other programs can only make a run slower."""
    return min([_seconds(run, device, clock) for _ in range(RUNS + 1)][1:])


def _seconds(run: Callable[[], object], device: str, clock: Clock) -> float:
    start = clock()
    run()
    if device == "cuda":
        torch.cuda.synchronize()
    return clock() - start


def _product_rate(device: str, dim: int, dtype: torch.dtype) -> float:
    if device == "cpu":
        rates = product_rates(dim, dtype)
        return rates.get(cpu_gemm()[0].name, rates["torch.mm"])
    a, b = (torch.randn(8192, dim, device=device).to(dtype) for _ in range(2))
    return 2 * 8192 * 8192 * dim / timed(lambda: a @ b.t(), device)


def _share(device: str, loss: str, dim: int, dtype: str, rate: float, overhead: float, clock: Clock) -> float:
    """The share of ``rate`` that a step of the loss reaches, apart from the overhead of its tiles."""
    problem = Problem(loss, BATCH[device], dim, dtype, device=device, normalize=False)
    inputs = tuple(x.detach().to(device).requires_grad_() for x in features(problem.batch, dim, getattr(torch, dtype)))
    passes = operations.single(problem)
    took = timed(functools.partial(step, fused(loss), inputs), device, clock)
    arithmetic = took - overhead * sum(p.tiles for p in passes)
    return sum(p.operations for p in passes) / rate / max(arithmetic, took / 2)


def _tile_seconds(device: str, loss: str, dtype: torch.dtype, clock: Clock) -> float:
    """The overhead of one tile, from many tiles with next to nothing in them."""
    problem = Problem(loss, OVERHEAD_PAIRS, OVERHEAD_DIM, name_of(dtype), device=device, normalize=False)
    workspace = problem.budget.smallest
    passes = operations.single(replace(problem, workspace_bytes=workspace))
    inputs = tuple(x.detach().to(device).requires_grad_() for x in features(problem.batch, problem.dim, dtype))
    took = timed(functools.partial(step, fused(loss, workspace_bytes=workspace), inputs), device, clock)
    return took / sum(p.tiles for p in passes)


def _copy_rate(device: str) -> float:
    x = torch.zeros(COPIED_BYTES[device] // 4, device=device)
    y = torch.empty_like(x)
    return 2 * COPIED_BYTES[device] / timed(lambda: y.copy_(x), device)


def _memory(device: str) -> int:
    return torch.cuda.mem_get_info()[1] if device == "cuda" else available_bytes()


def link(device: str) -> dict[str, float]:
    """``node_us`` and ``node_gb_s`` between two processes of this machine."""
    with tempfile.TemporaryDirectory() as folder:
        command = (sys.executable, "-m", "clipfast.plan.link", str(Path(folder) / "store"), device)
        other = subprocess.Popen((*command, "1"), stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        try:
            done = subprocess.run((*command, "0"), capture_output=True, text=True, timeout=LINK_SECONDS, check=False)
        except subprocess.TimeoutExpired as error:
            raise ValueError(f"{UNMEASURED}: no answer within {LINK_SECONDS:g} s") from error
        finally:
            other.kill()
            other.wait()
    if done.returncode:
        raise ValueError(f"{UNMEASURED}: {''.join(done.stderr.strip().splitlines()[-1:])}")
    return json.loads(done.stdout)
