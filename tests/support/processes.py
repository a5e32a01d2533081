"""Functions run by several processes under gloo, which end with the first error instead of waiting for each other."""

from __future__ import annotations

import multiprocessing
import os
import time
import traceback
from collections.abc import Callable
from datetime import timedelta
from pathlib import Path

import torch
import torch.distributed as dist

EXCHANGE = timedelta(seconds=20)  # for one exchange; a process that waits longer raises
PRELOADED = [
    "torch",
    "torch.distributed",
    "torch._dynamo",
    "clipfast.training.run.engine",
    "rich.progress",
    "PIL.PngImagePlugin",
]


def forkserver() -> multiprocessing.context.ForkServerContext:
    """Starts processes that have imported what all need: once for all tests, a start then takes a moment."""
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(PRELOADED)
    return context


def run_processes(function: Callable[[int], None], folder: Path, world_size: int = 2, seconds: float = 60.0) -> None:
    """``function(rank)`` in every process of a group. The first failure ends all and is raised here, with its traceback."""
    context = forkserver()
    errors = context.SimpleQueue()
    arguments = [(function, str(folder / "store"), rank, world_size, errors) for rank in range(world_size)]
    processes = [context.Process(target=_process, args=a, daemon=True) for a in arguments]
    for process in processes:
        process.start()
    deadline = time.monotonic() + seconds
    try:
        while any(p.is_alive() for p in processes) and errors.empty():
            assert time.monotonic() < deadline, f"the processes did not end within {seconds} s"
            time.sleep(0.02)
        assert errors.empty(), errors.get()
        assert all(p.exitcode == 0 for p in processes), f"exit codes {[p.exitcode for p in processes]}"
    finally:
        for process in processes:
            process.kill()
            process.join()


def _process(function: Callable[[int], None], store: str, rank: int, world_size: int, errors) -> None:
    os.environ.setdefault("GLOO_SOCKET_IFNAME", "lo")
    try:
        torch.set_num_threads(1)
        dist.init_process_group("gloo", init_method=f"file://{store}", rank=rank, world_size=world_size, timeout=EXCHANGE)
        function(rank)
        dist.barrier()  # nobody leaves while another still exchanges
        dist.destroy_process_group()
    except BaseException:
        errors.put(f"process {rank}:\n{traceback.format_exc()}")
        raise
