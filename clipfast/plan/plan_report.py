"""Plans as tables and as plain values for JSON."""

from __future__ import annotations

import math
from dataclasses import asdict
from typing import Any

from rich.table import Table

from clipfast.plan.machine import FIGURES, MEASURED, Machine
from clipfast.plan.problem import Problem
from clipfast.plan.strategies import Plan, chosen, fastest

MIB = 2**20


def machine_table(machine: Machine) -> Table:
    """Each figure and where it comes from, so that nobody takes a default for a measurement."""
    result = Table(title=f"Machine: {machine.name}")
    for column in ("", "for one rank", "source"):
        result.add_column(column)
    for name, declared in FIGURES.items():
        result.add_row(name, f"{getattr(machine, name):,.4g} {declared['unit']}".strip(), machine.source(name))
    return result


def cost_table(problem: Problem, found: list[Plan]) -> Table:
    result = Table(title=_title(problem), caption="For one rank. Operations and bytes are counted; times are the model's.")
    for column in ("", "operations", "sent", "compute", "transfers", "hidden", "step"):
        result.add_column(column, justify="right" if column else "left", no_wrap=True)
    for plan in found:
        times = plan.times
        hidden = f"{times.overlap:.0%}" if times.transfer else ""
        parts = (seconds(times.compute), seconds(times.transfer), hidden, seconds(times.step))
        result.add_row(plan.strategy, operations(plan.operations), size(plan.sent), *parts)
    return result


def memory_table(found: list[Plan]) -> Table:
    result = Table(title="Memory at the peak, for one rank")
    result.add_column("")
    for plan in found:
        result.add_column(plan.strategy, justify="right")
    for part in dict.fromkeys(part for plan in found for part in plan.memory):
        result.add_row(part, *(size(plan.memory.get(part, 0)) for plan in found))
    result.add_section()
    result.add_row("together", *(size(sum(plan.memory.values())) for plan in found))
    result.add_row("fits", *("yes" if plan.fits else "no" for plan in found))
    return result


def verdict(problem: Problem, machine: Machine, found: list[Plan]) -> str:
    best = fastest(found)
    words = "nothing fits in" if best is None else f"{best.strategy} is the fastest that fits in"
    text = f"By this model {words} {machine.memory_gib:.4g} GiB."
    if problem.ranks > 1:
        text += f' strategy="auto" takes {chosen(problem)}.'
    unmeasured = [name for name in FIGURES if machine.source(name) != MEASURED]
    return f"{text} Not measured here: {', '.join(unmeasured)}." if unmeasured else text


def as_dict(problem: Problem, machine: Machine, found: list[Plan]) -> dict[str, Any]:
    best = fastest(found)
    return {
        "problem": asdict(problem),
        "machine": {**machine.figures(), "sources": {name: machine.source(name) for name in FIGURES}},
        "auto": chosen(problem),
        "fastest": None if best is None else best.strategy,
        "plans": [plan.as_dict() for plan in found],
    }


def size(count: float) -> str:
    return _in_units(count, ((2**30, "GiB"), (MIB, "MiB"), (2**10, "KiB"), (1, "B")))


def seconds(value: float) -> str:
    return _in_units(value, ((1.0, "s"), (1e-3, "ms"), (1e-6, "us")))


def operations(count: float) -> str:
    return _in_units(count, ((1e15, "Pflop"), (1e12, "Tflop"), (1e9, "Gflop"), (1e6, "Mflop"), (1, "flop")))


def _in_units(value: float, units: tuple[tuple[float, str], ...]) -> str:
    """To three digits, in the largest unit that ``value`` reaches; nothing for 0."""
    if not value:
        return ""
    unit, name = next((entry for entry in units if value >= entry[0]), units[-1])
    return f"{value / unit:,.{max(0, 2 - int(math.log10(max(value / unit, 1))))}f} {name}"


def _title(problem: Problem) -> str:
    ranks = f"{problem.ranks} ranks" if problem.ranks > 1 else "one process"
    wanted = "" if problem.gradients == "both" else f", gradients: {problem.gradients}"
    return f"{problem.loss} loss, {problem.batch:,} pairs, D = {problem.dim}, {problem.dtype}, {ranks}{wanted}"
