"""A plan for each strategy: counts, memory and time together, and whether the strategy is possible."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

import torch

from clipfast.distributed.blocks import blocks, choose
from clipfast.plan import bytes_sent as traffic
from clipfast.plan import memory, operations, times
from clipfast.plan.machine import Machine
from clipfast.plan.operations import Pass
from clipfast.plan.problem import Problem
from clipfast.plan.times import Times

SINGLE = "single"


@dataclass(frozen=True)
class Plan:
    """One strategy for one step, seen from rank 0, which has as many pairs as any. Sizes are in bytes."""

    strategy: str
    ranks: int
    passes: list[Pass]
    memory: dict[str, int]
    sent: int
    handed: dict[str, int]
    times: Times
    fits: bool

    @property
    def operations(self) -> int:
        return sum(p.operations for p in self.passes)

    @property
    def extra(self) -> int:
        """Memory beside the features, which are there before the loss."""
        return sum(self.memory.values()) - self.memory["features"]

    def as_dict(self) -> dict[str, Any]:
        return {
            "strategy": self.strategy,
            "ranks": self.ranks,
            "operations": self.operations,
            "tiles": sum(p.tiles for p in self.passes),
            "memory_bytes": self.memory,
            "extra_bytes": self.extra,
            "sent_bytes": self.sent,
            "handed_bytes": self.handed,
            "compute_s": self.times.compute,
            "transfer_s": self.times.transfer,
            "exposed_s": self.times.exposed,
            "overlap": self.times.overlap,
            "step_s": self.times.step,
            "fits": self.fits,
        }


def plans(problem: Problem, machine: Machine) -> list[Plan]:
    """One process with everything and, for several ranks, gather and ring."""
    if problem.device != machine.device:
        raise ValueError(f"the problem is for {problem.device} and the machine is {machine.device}; give both the same device")
    found = [_single(replace(problem, ranks=1), machine)]
    return found + ([_grouped(problem, machine, name) for name in traffic.STRATEGIES] if problem.ranks > 1 else [])


def chosen(problem: Problem) -> str:
    """What ``strategy="auto"`` takes."""
    if problem.ranks == 1:
        return SINGLE
    return choose("auto", problem.rows_of_ranks, problem.dim, getattr(torch, problem.dtype))


def fastest(found: list[Plan]) -> Plan | None:
    """Of those that fit; None where none does."""
    return min((plan for plan in found if plan.fits), key=lambda plan: plan.times.step, default=None)


def _single(problem: Problem, machine: Machine) -> Plan:
    passes, parts = operations.single(problem), memory.single(problem)
    return _plan(SINGLE, 1, passes, parts, 0, {}, times.single(problem, machine, passes), machine)


def _grouped(problem: Problem, machine: Machine, strategy: str) -> Plan:
    passes = operations.grouped(problem, 0, blocks(strategy, problem.rows_of_ranks, 0))
    seconds = (times.ring if strategy == "ring" else times.gather)(problem, machine, passes)
    sent, handed = traffic.sent(problem, strategy, 0), traffic.handed(problem, strategy, 0)
    return _plan(strategy, problem.ranks, passes, memory.grouped(problem, strategy, 0), sent, handed, seconds, machine)


def _plan(
    strategy: str, ranks: int, passes: list[Pass], parts: dict[str, int], sent: int, handed: dict[str, int], seconds: Times,
    machine: Machine,
) -> Plan:  # fmt: skip
    fits = sum(parts.values()) <= machine.memory_gib * 2**30
    return Plan(strategy, ranks, passes, parts, sent, handed, seconds, fits)
