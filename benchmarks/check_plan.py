"""The plan's times and memory against measured steps: one process, and processes under gloo on this machine.

    python benchmarks/check_plan.py --out benchmarks/results/plan.json [--ranks 2] [--sizes 4096,8192] [--dim 512]

Every process has one thread. The machine's figures are measured first, as ``python -m clipfast plan --calibrate`` does: from a
step of another size in one process, and from messages between two. So the compared steps were not used to fit the plan. A
ratio is measured time over planned time; measured is the fastest of the runs. ``--clock processor`` compares a rank's
processor time with the planned compute, without transfers; other programs disturb that less. Ranks that share a machine's
memory and caches are slower than the plan says, which is made for one rank.
"""

from __future__ import annotations

import functools
import json
import os
import tempfile
import time
from pathlib import Path
from typing import Annotated, Any

import torch
import torch.distributed as dist
import torch.multiprocessing
import typer
from torch import Tensor

from clipfast.bench.cases import features
from clipfast.bench.measure import environment, peak_bytes, step
from clipfast.common.files import write_json
from clipfast.distributed.blocks import EXCHANGES
from clipfast.losses.declaration import LOSSES, named
from clipfast.plan.calibrate import measured
from clipfast.plan.machine import Machine
from clipfast.plan.problem import Problem
from clipfast.plan.strategies import SINGLE, Plan, plans

RUNS = 10
CLOCKS = {"wall": time.perf_counter, "processor": time.process_time}


def step_of(problem: Problem, inputs: tuple[Tensor, ...], **options: Any) -> functools.partial:
    loss = functools.partial(named(problem.loss).fused, normalize=problem.normalize, **options)
    return functools.partial(step, loss, inputs)


def fastest(run: functools.partial, clock: str) -> float:
    times, now = [], CLOCKS[clock]
    for _ in range(RUNS + 1):
        if dist.is_initialized():
            dist.barrier()
        start = now()
        run()
        times.append(now() - start)
    return min(times[1:])


def alone(problem: Problem, clock: str) -> dict[str, float | None]:
    inputs = features(problem.batch, problem.dim, getattr(torch, problem.dtype))
    run = step_of(problem, inputs)
    found = fastest(run, clock)
    for x in inputs:
        x.grad = None
    return {"step_s": found, "extra_bytes": peak_bytes(run)}


def one_rank(rank: int, store: str, problem: Problem, results: str, clock: str) -> None:
    """Rank 0 writes, for each strategy, the time of the slowest rank."""
    os.environ.setdefault("GLOO_SOCKET_IFNAME", "lo")
    torch.set_num_threads(1)
    dist.init_process_group("gloo", init_method=f"file://{store}", rank=rank, world_size=problem.ranks)
    inputs = features(problem.pairs_of_ranks[rank], problem.dim, getattr(torch, problem.dtype), seed=rank)
    found = {}
    for strategy in EXCHANGES:
        run = step_of(problem, inputs, group=dist.group.WORLD, strategy=strategy)
        seconds = torch.tensor(fastest(run, clock))
        dist.all_reduce(seconds, dist.ReduceOp.MAX)
        found[strategy] = {"step_s": seconds.item()}
    if rank == 0:
        Path(results).write_text(json.dumps(found))
    dist.barrier()
    dist.destroy_process_group()


def grouped(problem: Problem, clock: str) -> dict[str, dict[str, float]]:
    with tempfile.TemporaryDirectory() as folder:
        store, results = f"{folder}/store", f"{folder}/results.json"
        torch.multiprocessing.spawn(one_rank, (store, problem, results, clock), nprocs=problem.ranks)
        return json.loads(Path(results).read_text())


def row(problem: Problem, plan: Plan, found: dict[str, float | None], clock: str) -> dict[str, Any]:
    seconds = found["step_s"] or 0.0
    planned = plan.times.step if clock == "wall" else plan.times.compute
    result = {
        "loss": problem.loss, "batch": problem.batch, "ranks": plan.ranks, "strategy": plan.strategy,
        "planned_s": planned, "measured_s": seconds, "ratio": seconds / planned,
        "planned_extra_bytes": plan.extra, "measured_extra_bytes": found.get("extra_bytes"),
    }  # fmt: skip
    typer.echo(
        f"{plan.strategy:7s} {problem.loss:9s} N = {problem.batch:6d}: planned {planned * 1e3:8.1f} ms, measured "
        f"{seconds * 1e3:8.1f} ms, ratio {result['ratio']:.2f}"
    )
    return result


def compare(loss: str, batch: int, dim: int, dtype: str, ranks: int, machine: Machine, clock: str) -> list[dict[str, Any]]:
    problem = Problem(loss, batch, dim, dtype, ranks, device="cpu")
    found = {SINGLE: alone(problem, clock), **grouped(problem, clock)}
    return [row(problem, plan, found[plan.strategy], clock) for plan in plans(problem, machine)]


def main(
    out: Annotated[Path, typer.Option(help="Write the results here.")] = Path("benchmarks/results/plan.json"),
    sizes: Annotated[str, typer.Option(help="Batch sizes, separated by commas.")] = "4096,8192",
    losses: Annotated[str, typer.Option(help="Losses, separated by commas.")] = ",".join(LOSSES),
    dim: Annotated[int, typer.Option(help="Width of the features.")] = 512,
    dtype: Annotated[str, typer.Option(help="Of the features.")] = "float32",
    ranks: Annotated[int, typer.Option(min=2, help="Processes of the group.")] = 2,
    clock: Annotated[str, typer.Option(help=f"One of {', '.join(CLOCKS)}.")] = "wall",
    factor: Annotated[float, typer.Option(min=1, help="How far a plan may be off; beyond, the exit status is 1.")] = 2.0,
) -> None:
    torch.set_num_threads(1)
    rows, machines, load = [], {}, [os.getloadavg()[0]]
    for loss in losses.split(","):
        machine = measured(Machine(name="this machine", device="cpu"), loss, dim, dtype, CLOCKS[clock])
        machines[loss] = machine.figures()
        for batch in sizes.split(","):
            rows += compare(loss, int(batch), dim, dtype, ranks, machine, clock)
    load.append(os.getloadavg()[0])
    surroundings = {**environment(), "cores": os.cpu_count(), "load_before_and_after": load}
    content = {"environment": surroundings, "clock": clock, "dim": dim, "dtype": dtype, "machines": machines, "results": rows}
    write_json(out, content)
    typer.echo(f"results: {out}")
    off = max(max(row["ratio"], 1 / row["ratio"]) for row in rows)
    typer.echo(f"the plan is off by a factor of {off:.2f} at most; {factor} is allowed")
    if off > factor:
        raise typer.Exit(1)


if __name__ == "__main__":
    typer.run(main)
