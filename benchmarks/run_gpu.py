"""Everything that needs a GPU, in one command: tests, sanitizer, benchmarks. Writes one JSON file.

    python benchmarks/run_gpu.py --out benchmarks/results/gpu.json [--parts tests,sanitizer,speed] [--minutes 25]

The file names the hardware, the versions and the commit. Times are medians of interleaved runs in one process, so their ratios
can be compared. Peers (memeff, inf_cl, siglip_kernel) are timed where they are installed.
"""

from __future__ import annotations

import functools
import json
import platform
import shutil
import statistics
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Annotated, Any

import torch
import typer
from torch import Tensor

from clipfast.bench.cases import fused
from clipfast.bench.measure import step
from clipfast.bench.peers import peers
from clipfast.common.files import write_json
from clipfast.compute.registry import declarations
from clipfast.losses.clip import CLIP
from clipfast.losses.declaration import named
from clipfast.losses.siglip import SIGLIP

ROOT = Path(__file__).parents[1]
TARGETS = [(n, d) for d in (512, 768, 1024) for n in (32_768, 65_536)]
TIMED = (CLIP.name, SIGLIP.name)  # one loss of each family
SIDES = (8192, 16_384)  # tile sides timed in addition to the default
FIRST = (32_768, 768)
SMALL = [(n, 768) for n in (1024, 2048, 4096)]
DENSE_LIMIT = 33_000  # pairs; the dense losses hold several matrices of logits, 17 GB each at 65,536 in float32


def command(*words: str | Path, timeout: float = 900) -> dict[str, Any]:
    start = time.perf_counter()
    try:
        done = subprocess.run(words, cwd=ROOT, capture_output=True, text=True, timeout=timeout, check=False)
    except subprocess.TimeoutExpired:
        return {"returncode": None, "seconds": timeout, "tail": "ran out of time"}
    tail = (done.stdout + done.stderr)[-3000:]
    return {"returncode": done.returncode, "seconds": time.perf_counter() - start, "tail": tail}


def environment() -> dict[str, Any]:
    import triton

    git = command("git", "rev-parse", "HEAD")
    return {
        "gpu": torch.cuda.get_device_name(), "capability": torch.cuda.get_device_capability(), "torch": torch.__version__,
        "cuda": torch.version.cuda, "triton": triton.__version__, "python": platform.python_version(),
        "commit": git["tail"].strip() if git["returncode"] == 0 else "unknown",
    }  # fmt: skip


def sanitizer() -> dict[str, Any]:
    """compute-sanitizer's memcheck and racecheck over the extension's tests at small sizes."""
    tool = shutil.which("compute-sanitizer")
    if tool is None:
        return {"skipped": "compute-sanitizer is not installed"}
    tests = (sys.executable, "-m", "pytest", "-q", "-x", "tests/gpu/test_cuda_extension.py", "-k", "not 1000")
    return {check: command(tool, "--tool", check, "--error-exitcode", "9", *tests) for check in ("memcheck", "racecheck")}


def milliseconds(run: Callable[[], object]) -> float:
    start, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
    start.record()
    run()
    end.record()
    end.synchronize()
    return start.elapsed_time(end)


def interleaved(runs: dict[str, Callable[[], object]], rounds: int = 12) -> dict[str, float]:
    """Median milliseconds of each run; they take turns, so that clocks and temperature are the same for all."""
    times: dict[str, list[float]] = {name: [] for name in runs}
    for _ in range(rounds + 2):
        for name, run in runs.items():
            times[name].append(milliseconds(run))
    return {name: statistics.median(t[2:]) for name, t in times.items()}


def product_rate() -> float:
    """Operations per second of an 8192^3 bfloat16 product."""
    a, b = (torch.randn(8192, 8192, device="cuda", dtype=torch.bfloat16) for _ in range(2))
    return 2 * 8192**3 / (interleaved({"mm": lambda: a @ b})["mm"] / 1e3)


def contenders(loss: str, n: int, d: int) -> dict[str, Callable[..., Tensor]]:
    """By name: every backend with tiles, the chosen one, other tile sides, the dense loss, and other projects' losses."""
    found = {f"clipfast {backend.name}": fused(loss, backend.name) for backend in declarations() if backend.make}
    found["clipfast chosen"] = fused(loss)
    found |= {f"clipfast triton, tile {side}": fused(loss, "triton", 2 * side**2) for side in SIDES}
    if n <= DENSE_LIMIT:
        textbook = named(loss).textbook
        found |= {"dense eager": textbook, "dense compiled": torch.compile(textbook)}
    return found | peers(loss)


def measured(loss: str, n: int, d: int, rate: float) -> dict[str, Any]:
    generator = torch.Generator("cuda").manual_seed(0)
    a, b = (torch.nn.functional.normalize(torch.randn(n, d, generator=generator, device="cuda"), dim=1) for _ in range(2))
    inputs = (
        a.bfloat16().requires_grad_(),
        b.bfloat16().requires_grad_(),
        torch.tensor(14.3, device="cuda", requires_grad=True),
    )
    runs, failed, peaks = {}, {}, {}
    for name, contender in contenders(loss, n, d).items():
        run = functools.partial(step, contender, inputs)
        try:
            run()
            torch.cuda.reset_peak_memory_stats()
            before = torch.cuda.memory_allocated()
            run()
            peaks[name] = torch.cuda.max_memory_allocated() - before
            runs[name] = run
        except Exception as error:  # noted for a backend or peer that cannot run this size; the others are still timed
            failed[name] = f"{type(error).__name__}: {str(error)[:300]}"
    floor = named(loss).least_products * n * n * d / rate * 1e3
    times = interleaved(runs)
    return {
        "loss": loss, "n": n, "dim": d, "floor_ms": floor, "ms": times, "peak_bytes": peaks,
        "share_of_floor": {name: floor / t for name, t in times.items()}, "failed": failed,
    }  # fmt: skip


def speed(deadline: float) -> dict[str, Any]:
    rate = product_rate()
    """The most wanted size first: what comes after the deadline is skipped."""
    sizes = dict.fromkeys((loss, *size) for size in [FIRST, *SMALL, *TARGETS] for loss in TIMED)
    results = []
    for size in sizes:
        if time.time() > deadline:
            results.append({"skipped": size})
            continue
        results.append(measured(*size, rate))
        print(json.dumps(results[-1]), flush=True)
        torch.cuda.empty_cache()
    return {"bf16_8192_tflops": rate / 1e12, "results": results}


def main(
    out: Annotated[Path, typer.Option(help="the JSON file")] = ROOT / "benchmarks/results/gpu.json",
    parts: Annotated[str, typer.Option(help="any of tests, sanitizer, speed")] = "tests,sanitizer,speed",
    minutes: Annotated[float, typer.Option(help="no new measurement starts after this")] = 25.0,
) -> None:
    """Run the parts, and write each result as soon as it is there, failures too."""
    if not torch.cuda.is_available():
        raise SystemExit("torch sees no GPU, and everything here needs one")
    deadline, report = time.time() + 60 * minutes, {"environment": environment()}
    for part in parts.split(","):
        if part == "tests":
            report[part] = command(sys.executable, "-m", "pytest", "-q", "tests/gpu")
        elif part == "sanitizer":
            report[part] = sanitizer()
        elif part == "speed":
            report[part] = speed(deadline)
        else:
            raise SystemExit(f"--parts must be any of tests, sanitizer, speed; got {part!r}")
        write_json(out, report)
    print(f"written to {out}")


if __name__ == "__main__":
    typer.run(main)
