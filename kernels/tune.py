"""Block sizes by measurement, only when asked for: ``CLIPFAST_AUTOTUNE=1``. The result is kept for the next process.

The first call of a dtype on an architecture times each of ``config.CANDIDATES`` on a tile of random features (about a
second) and writes the fastest to ``$CLIPFAST_CACHE/blocks.json`` (default ``~/.cache/clipfast``). Without the variable
nothing is timed, read or written.
"""

from __future__ import annotations

import json
import logging
import os
from dataclasses import asdict
from functools import cache
from pathlib import Path

import torch

from clipfast.common.files import write_atomically
from clipfast.kernels.block_sizes import CANDIDATES, Block, block_for

log = logging.getLogger("clipfast")

SIDE, WIDTH = 8192, 768


def block(major: int, dtype: torch.dtype, precision: str) -> Block:
    """The block to use: the table's, or with CLIPFAST_AUTOTUNE=1 the fastest on this machine."""
    ieee = dtype == torch.float32 and precision == "ieee"
    if os.environ.get("CLIPFAST_AUTOTUNE") != "1" or ieee or major not in CANDIDATES:
        return block_for(major, dtype, precision)
    return _tuned(major, dtype)


def cache_file() -> Path:
    return Path(os.environ.get("CLIPFAST_CACHE", Path.home() / ".cache" / "clipfast")) / "blocks.json"


@cache
def _tuned(major: int, dtype: torch.dtype) -> Block:
    import triton

    key = f"{torch.cuda.get_device_name()}, triton {triton.__version__}, {dtype}"
    known = _read()
    if key not in known:
        times = {candidate: _time(candidate, dtype) for candidate in CANDIDATES[major]}
        known[key] = asdict(min(times, key=lambda candidate: times[candidate]))
        log.info("tuned %s: %s", key, {str(c): f"{t:.3f} ms" for c, t in times.items()})
        write_atomically(cache_file(), lambda file: file.write(json.dumps(known, indent=1).encode()))
    return Block(**known[key])


def _read() -> dict[str, dict[str, int]]:
    try:
        return json.loads(cache_file().read_text())
    except FileNotFoundError:
        return {}
    except (OSError, ValueError) as error:
        log.warning("%s is unreadable (%s): tuning again", cache_file(), error)
        return {}


def _time(candidate: Block, dtype: torch.dtype) -> float:
    """Milliseconds of the fused exponential sums with this block; infinite where the machine cannot run it."""
    import triton.testing

    from clipfast.kernels.exp_sums import exp_sums_kernel
    from clipfast.kernels.launch import launch_tile

    x = torch.nn.functional.normalize(torch.randn(SIDE, WIDTH, device="cuda"), dim=1).to(dtype)
    factor = torch.full((SIDE,), 20.0, device="cuda", dtype=torch.float64)
    excluded = torch.arange(SIDE, device="cuda").unsqueeze(1)
    sums = [torch.empty(-(-SIDE // side), SIDE, device="cuda") for side in (candidate.cols, candidate.rows)]
    vectors = (factor, None, excluded, torch.zeros((), device="cuda", dtype=torch.float64), *sums, None, None)
    try:
        return triton.testing.do_bench(
            lambda: launch_tile(exp_sums_kernel, x, x, vectors, 0, 1, candidate), return_mode="median"
        )
    except triton.runtime.errors.OutOfResources as error:
        log.debug("%s does not run here: %s", candidate, error)
        return float("inf")
