"""One of two processes that measure the link between them: ``python -m clipfast.plan.link STORE DEVICE RANK``."""

from __future__ import annotations

import json
import os
import statistics
import sys
import time
from datetime import timedelta

import torch
import torch.distributed as dist

SMALL_BYTES, LARGE_BYTES, RUNS = 8, 2**24, 9
WAIT = timedelta(seconds=30)


def main(store: str, device: str, rank: int) -> None:
    """Measure; rank 0 prints the figures as JSON. ``store``: a file by which the two find each other."""
    os.environ.setdefault("GLOO_SOCKET_IFNAME", "lo")
    torch.set_num_threads(1)
    if device == "cuda":
        torch.cuda.set_device(rank)
    backend = "nccl" if device == "cuda" else "gloo"
    dist.init_process_group(backend, init_method=f"file://{store}", rank=rank, world_size=2, timeout=WAIT)
    start = exchange_seconds(SMALL_BYTES, device)
    rest = max(exchange_seconds(LARGE_BYTES, device) - start, 1e-9)
    if rank == 0:
        print(json.dumps({"node_us": start * 1e6, "node_gb_s": LARGE_BYTES / rest / 1e9}))
    dist.barrier()
    dist.destroy_process_group()


def exchange_seconds(size: int, device: str) -> float:
    """Median seconds in which both processes send ``size`` bytes to each other, as neighbours in a ring do."""
    sent, received = (torch.zeros(size, dtype=torch.uint8, device=device) for _ in range(2))
    other = 1 - dist.get_rank()
    times = []
    for _ in range(RUNS):
        dist.barrier()
        start = time.perf_counter()
        moves = [dist.P2POp(dist.isend, sent, other), dist.P2POp(dist.irecv, received, other)]
        for work in dist.batch_isend_irecv(moves):
            work.wait()
        if device == "cuda":
            torch.cuda.synchronize()
        times.append(time.perf_counter() - start)
    return statistics.median(times[1:])


if __name__ == "__main__":
    main(sys.argv[1], sys.argv[2], int(sys.argv[3]))
