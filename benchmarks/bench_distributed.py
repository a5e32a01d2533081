"""The losses across processes beside open_clip's own: time of a step and peak memory of each rank.

    python benchmarks/bench_distributed.py --out benchmarks/results/distributed.json [--ranks 2] [--sizes 1024,4096] [--dim 512]

Sizes are the pairs of all ranks. Processes run under gloo with one thread each; the contenders take turns. A step is forward
and backward from normalised float32 features; open_clip's modules get the settings whose gradients are one process's. Times
are medians of the slowest rank's, memory is the largest peak above what was resident before. Needs the extra ``peers``.
"""

from __future__ import annotations

import functools
import json
import os
import statistics
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Annotated, Any

import torch
import torch.distributed as dist
import torch.multiprocessing
import torch.nn.functional as F
import typer
from rich.console import Console
from rich.table import Table

import clipfast
from clipfast.bench.measure import environment, peak_bytes
from clipfast.bench.peers import open_clip_losses
from clipfast.common.files import write_atomically

ROUNDS = 5
BIAS = -10.0


def contenders(loss: str, rank: int, ranks: int) -> dict[str, Callable[..., torch.Tensor]]:
    theirs, world = open_clip_losses(), {"rank": rank, "world_size": ranks}
    if loss == "clip":
        return {
            "open_clip local_loss gather_with_grad": theirs.ClipLoss(local_loss=True, gather_with_grad=True, **world),
            "open_clip gather_with_grad": theirs.ClipLoss(gather_with_grad=True, **world),
            **{f"clipfast {s}": clipfast.ClipLoss(strategy=s, **world) for s in ("ring", "gather")},
        }
    return {
        **{f"open_clip {i}": theirs.SigLipLoss(dist_impl=i, **world) for i in ("bidir", "gather")},
        **{f"clipfast {s}": clipfast.SigLipLoss(strategy=s, **world) for s in ("ring", "gather")},
    }


def measure(loss: str, pairs: int, dim: int, rank: int, ranks: int) -> dict[str, dict[str, float]]:
    torch.manual_seed(rank)
    a, b = (F.normalize(torch.randn(pairs // ranks, dim), dim=1).requires_grad_() for _ in range(2))
    arguments = (a, b, torch.tensor(14.3, requires_grad=True)) + ((BIAS,) if loss == "siglip" else ())
    steps = {name: functools.partial(one_step, module, arguments) for name, module in contenders(loss, rank, ranks).items()}
    times: dict[str, list[float]] = {name: [] for name in steps}
    for _ in range(ROUNDS + 1):
        for name, step in steps.items():
            dist.barrier()
            start = time.perf_counter()
            step()
            times[name].append(largest(time.perf_counter() - start))
    found = {}
    for name, step in steps.items():
        a.grad = b.grad = None
        dist.barrier()
        found[name] = {"ms": 1e3 * statistics.median(times[name][1:]), "extra_mib": largest((peak_bytes(step) or 0) / 2**20)}
    return found


def one_step(module: Callable[..., torch.Tensor], arguments: tuple[Any, ...]) -> None:
    for x in arguments:
        if isinstance(x, torch.Tensor):
            x.grad = None
    module(*arguments).backward()


def largest(value: float) -> float:
    total = torch.tensor(value, dtype=torch.float64)
    dist.all_reduce(total, dist.ReduceOp.MAX)
    return total.item()


def one_rank(rank: int, ranks: int, store: str, sizes: list[int], dim: int, results: str) -> None:
    os.environ.setdefault("GLOO_SOCKET_IFNAME", "lo")
    torch.set_num_threads(1)
    dist.init_process_group("gloo", init_method=f"file://{store}", rank=rank, world_size=ranks)
    found = [
        {"loss": loss, "pairs": n, "dim": dim, "ranks": ranks, "contenders": measure(loss, n, dim, rank, ranks)}
        for loss in ("clip", "siglip")
        for n in sizes
    ]
    if rank == 0:
        Path(results).write_text(json.dumps(found))
    dist.destroy_process_group()


def main(
    out: Annotated[Path | None, typer.Option(help="Write the results here as JSON.")] = None,
    ranks: Annotated[int, typer.Option(min=2)] = 2,
    sizes: Annotated[str, typer.Option(help="Pairs of all ranks, separated by commas.")] = "1024,4096",
    dim: Annotated[int, typer.Option(min=1)] = 512,
) -> None:
    try:
        open_clip_losses()
    except ModuleNotFoundError as error:
        raise typer.BadParameter(str(error)) from error
    with tempfile.TemporaryDirectory() as folder:
        results = f"{folder}/results.json"
        chosen = [int(n) for n in sizes.split(",")]
        torch.multiprocessing.spawn(one_rank, (ranks, f"{folder}/store", chosen, dim, results), nprocs=ranks)
        found = json.loads(Path(results).read_text())
    table = Table("loss", "pairs", "contender", "ms", "extra MiB a rank")
    for case in found:
        for name, figures in case["contenders"].items():
            table.add_row(case["loss"], str(case["pairs"]), name, f"{figures['ms']:.1f}", f"{figures['extra_mib']:.0f}")
    Console().print(table)
    if out is not None:
        content = json.dumps({"environment": environment(), "results": found}, indent=1) + "\n"
        write_atomically(out, lambda file: file.write(content.encode()))


if __name__ == "__main__":
    typer.run(main)
