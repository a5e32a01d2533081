"""``python -m clipfast plan``: what a step will cost on a machine, before it is run."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Annotated

import torch
import typer

from clipfast.cli.choices import DEFAULT_LOSS
from clipfast.cli.terminal import console, stop
from clipfast.common.files import write_json
from clipfast.losses.declaration import LOSSES
from clipfast.plan import machine as machines
from clipfast.plan import plan_report as report
from clipfast.plan.machine import DEFAULT, FIGURES, FLAG, Machine
from clipfast.plan.problem import DTYPES, GRADIENTS, Problem
from clipfast.plan.strategies import plans


def figure(text: str) -> typer.models.OptionInfo:
    return typer.Option(help=text, show_default=False, rich_help_panel="Machine, for one rank")


def plan(
    batch: Annotated[int, typer.Option(help="Pairs of the whole group in a step.")],
    dim: Annotated[int, typer.Option(help="Width of the features.")],
    gpus: Annotated[int, typer.Option(help="Ranks: processes, each with a GPU or on a CPU.")] = 1,
    loss: Annotated[str, typer.Option(help=f"One of {', '.join(LOSSES)}.")] = DEFAULT_LOSS,
    dtype: Annotated[str, typer.Option(help=f"Of the features: {', '.join(DTYPES)}.")] = "bfloat16",
    gradients: Annotated[str, typer.Option(help=f"{', '.join(GRADIENTS)}. Rows are images or queries.")] = "both",
    normalize: Annotated[bool, typer.Option(help="Whether the loss normalises.")] = True,
    workspace_mib: Annotated[int | None, typer.Option(help="The losses' workspace_bytes in MiB.", show_default=False)] = None,
    machine: Annotated[Path | None, typer.Option(help="TOML file with a machine's figures.")] = None,
    calibrate: Annotated[bool, typer.Option("--calibrate", help="Measure this machine's figures.")] = False,
    json: Annotated[Path | None, typer.Option(help="Write the results here.")] = None,
    product_tflops: Annotated[float | None, figure("Rate of large products.")] = None,
    sweep_share: Annotated[float | None, figure("Share of that rate that the sweep reaches.")] = None,
    copy_gb_s: Annotated[float | None, figure("Memory, bytes read plus bytes written.")] = None,
    tile_us: Annotated[float | None, figure("To start one tile in one pass.")] = None,
    memory_gib: Annotated[float | None, figure("Memory.")] = None,
    node_ranks: Annotated[int | None, figure("Ranks of a node.")] = None,
    node_gb_s: Annotated[float | None, figure("Link within a node, one direction.")] = None,
    node_us: Annotated[float | None, figure("To start one message within a node.")] = None,
    network_gb_s: Annotated[float | None, figure("Link between nodes, one direction.")] = None,
    network_us: Annotated[float | None, figure("To start one message between nodes.")] = None,
) -> None:
    """Memory, operations, bytes sent and expected time of a loss on many ranks, for each strategy.

    Operations and bytes are counted as the code makes them. Times come from a model of the machine, an assumed node of
    eight H200 by default: figures are given by flags, by a file, or measured here with --calibrate.
    """
    given = {name: value for name, value in locals().items() if name in FIGURES and value is not None}
    workspace = None if workspace_mib is None else workspace_mib * 2**20
    try:
        # Measuring the machine takes seconds, and it says the device: errors of the problem come first.
        problem = Problem(loss, batch, dim, dtype, gpus, gradients, normalize=normalize, workspace_bytes=workspace)
        model = _machine(machine, calibrate, problem, given)
        problem = replace(problem, device=model.device)
        found = plans(problem, model)
        if json is not None:
            write_json(json, report.as_dict(problem, model, found))
    except (ImportError, OSError, ValueError) as error:
        stop(error)
    for table in (report.machine_table(model), report.cost_table(problem, found), report.memory_table(found)):
        console.print(table)
    console.print(report.verdict(problem, model, found))
    if json is not None:
        console.print(f"results: {json}", soft_wrap=True)


def _machine(path: Path | None, calibrate: bool, problem: Problem, given: dict[str, float]) -> Machine:
    """The figures by rank, the last wins: defaults, the file, what is measured, the flags."""
    model = machines.default(problem.dtype) if path is None else machines.read(path, problem.dtype)
    if calibrate:
        from clipfast.plan.calibrate import measured

        device = "cuda" if torch.cuda.is_available() else "cpu"
        model = measured(replace(model, name="this machine", device=device), problem.loss, problem.dim, problem.dtype)
    model = model.updated(FLAG, **given)
    missing = [name for name, declared in FIGURES.items() if declared["of_device"] and model.source(name) == DEFAULT]
    if model.device == "cpu" and missing:
        advice = "name them in the file or by flags, or pass --calibrate"
        raise ValueError(f"{', '.join(missing)} must be given for a CPU, which has no defaults; got none; {advice}")
    return model
