"""The losses across processes beside open_clip's own: time of a step and peak memory of each rank.

    python benchmarks/bench_distributed.py --out benchmarks/results/distributed.json [--ranks 2] [--sizes 1024,4096] [--dim 512]

Sizes are the pairs of all ranks. Processes run under gloo with one thread each, and the contenders take turns. A step is a
forward and a backward pass from normalised float32 features. open_clip's modules get the settings with which gradients are
those of one process. Times are medians of the slowest rank's; memory is the largest of the ranks' peaks above what was resident
before. Needs the extra ``peers``.
"""

from __future__ import annotations

import functools
import json
import os
import statistics
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Annotated, Any, NamedTuple

import torch
import torch.distributed as dist
import torch.multiprocessing
import torch.nn.functional as F
import typer
from rich.console import Console
from rich.table import Table

import clipfast
from clipfast.bench.measure import environment, peak_bytes, seconds, step
from clipfast.bench.peers import open_clip_losses
from clipfast.common.files import write_json
from clipfast.losses.clip import CLIP
from clipfast.losses.siglip import BIAS, SIGLIP

ROUNDS = 5
Contender = Callable[[torch.Tensor, torch.Tensor, torch.Tensor], torch.Tensor]


class Compared(NamedTuple):
    """A loss of both projects: clipfast's module, open_clip's with its settings, and what both take beside the scale."""

    module: Callable[..., torch.nn.Module]
    theirs: str
    settings: dict[str, dict[str, Any]]
    rest: tuple[float, ...] = ()


COMPARED = {
    CLIP.name: Compared(
        clipfast.ClipLoss,
        "ClipLoss",
        {
            "local_loss gather_with_grad": {"local_loss": True, "gather_with_grad": True},
            "gather_with_grad": {"gather_with_grad": True},
        },
    ),
    SIGLIP.name: Compared(
        clipfast.SigLipLoss, "SigLipLoss", {name: {"dist_impl": name} for name in ("bidir", "gather")}, rest=(BIAS,)
    ),
}


def contenders(loss: str, rank: int, ranks: int) -> dict[str, Contender]:
    compared, world = COMPARED[loss], {"rank": rank, "world_size": ranks}
    theirs = getattr(open_clip_losses(), compared.theirs)
    modules = {f"open_clip {name}": theirs(**settings, **world) for name, settings in compared.settings.items()}
    modules |= {f"clipfast {strategy}": compared.module(strategy=strategy, **world) for strategy in ("ring", "gather")}
    return {name: functools.partial(of_scale, module, compared.rest) for name, module in modules.items()}


def of_scale(module: torch.nn.Module, rest: tuple[float, ...], *inputs: torch.Tensor) -> torch.Tensor:
    return module(*inputs, *rest)


def measure(loss: str, pairs: int, dim: int, rank: int, ranks: int) -> dict[str, dict[str, float]]:
    torch.manual_seed(rank)
    a, b = (F.normalize(torch.randn(pairs // ranks, dim), dim=1).requires_grad_() for _ in range(2))
    inputs = (a, b, torch.tensor(14.3, requires_grad=True))
    steps = {name: functools.partial(step, contender, inputs) for name, contender in contenders(loss, rank, ranks).items()}
    times: dict[str, list[float]] = {name: [] for name in steps}
    for _ in range(ROUNDS + 1):
        for name, run in steps.items():
            dist.barrier()
            times[name].append(largest(seconds(run)))
    found = {}
    for name, run in steps.items():
        a.grad = b.grad = None
        dist.barrier()
        found[name] = {"ms": 1e3 * statistics.median(times[name][1:]), "extra_mib": largest((peak_bytes(run) or 0) / 2**20)}
    return found


def largest(value: float) -> float:
    """The largest of all ranks' values."""
    total = torch.tensor(value, dtype=torch.float64)
    dist.all_reduce(total, dist.ReduceOp.MAX)
    return total.item()


def one_rank(rank: int, ranks: int, store: str, sizes: list[int], dim: int, results: str) -> None:
    os.environ.setdefault("GLOO_SOCKET_IFNAME", "lo")
    torch.set_num_threads(1)
    dist.init_process_group("gloo", init_method=f"file://{store}", rank=rank, world_size=ranks)
    found = [
        {"loss": loss, "pairs": n, "dim": dim, "ranks": ranks, "contenders": measure(loss, n, dim, rank, ranks)}
        for loss in COMPARED
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
        write_json(out, {"environment": environment(), "results": found})


if __name__ == "__main__":
    typer.run(main)
