"""The block of a machine, measured where that is asked for: ``CLIPFAST_AUTOTUNE=1``. The result is kept for the next process.

The first call of a dtype on an architecture times each of the table's candidates on a tile of random features (about a
second) and writes the fastest to ``$CLIPFAST_CACHE/blocks.json`` (default ``~/.cache/clipfast``). Without the variable
nothing is timed, read or written.
"""

from __future__ import annotations

import json
import logging
import os
from collections.abc import Callable
from dataclasses import asdict
from functools import cache, wraps
from pathlib import Path

import torch
import triton
from torch import Tensor

from clipfast.common.files import write_atomically
from clipfast.kernels.block_sizes import Block, candidates_for
from clipfast.kernels.exp_sums import exp_sums
from clipfast.kernels.launch_records import Inner, Scores

log = logging.getLogger("clipfast")

SIDE, WIDTH = 8192, 768


def block_of(features: Tensor) -> Block:
    """The block for features of this dtype on this device: the table's first, or with CLIPFAST_AUTOTUNE=1 the fastest."""
    found = candidates_for(features)
    if os.environ.get("CLIPFAST_AUTOTUNE") != "1" or len(found) == 1:
        return found[0]
    return _fastest(found, features.dtype)


def in_its_block(launcher: Callable[..., None]) -> Callable[..., None]:
    """A tile kernel's launcher without its last argument: the block is that of the features."""

    @wraps(launcher)
    def launch(scores: Scores, *own: Tensor | Inner | None) -> None:
        launcher(scores, *own, block_of(scores.rows))

    return launch


def cache_file() -> Path:
    return Path(os.environ.get("CLIPFAST_CACHE", Path.home() / ".cache" / "clipfast")) / "blocks.json"


@cache
def _fastest(found: tuple[Block, ...], dtype: torch.dtype) -> Block:
    key = f"{torch.cuda.get_device_name()}, triton {triton.__version__}, {dtype}"
    known = _read()
    if key not in known:
        times = {candidate: _time(candidate, dtype) for candidate in found}
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


def _time(block: Block, dtype: torch.dtype) -> float:
    """Milliseconds of ``exp_sums`` with this block; infinite where the machine cannot run it."""
    import triton.testing

    x = torch.nn.functional.normalize(torch.randn(SIDE, WIDTH, device="cuda"), dim=1).to(dtype)
    row_scale_log2 = torch.full((SIDE,), 20.0, device="cuda", dtype=torch.float64)
    scores = Scores(x, x, row_scale_log2, None, torch.arange(SIDE, device="cuda").unsqueeze(1), 0)
    shift_log2 = torch.zeros((), device="cuda", dtype=torch.float64)
    row_sum, col_sum = (torch.empty(triton.cdiv(SIDE, side), SIDE, device="cuda") for side in (block.cols, block.rows))
    try:
        return triton.testing.do_bench(
            lambda: exp_sums(scores, shift_log2, row_sum, col_sum, None, None, block), return_mode="median"
        )
    except triton.runtime.errors.OutOfResources as error:
        log.debug("%s does not run here: %s", block, error)
        return float("inf")
