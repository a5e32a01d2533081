"""A plan for each strategy: counts, memory and time together, and whether the strategy is possible."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

import torch

from clipfast.distributed.blocks import AUTO, EXCHANGES, blocks, choose
from clipfast.plan import bytes_sent, memory, operations, times
from clipfast.plan.machine import Machine
from clipfast.plan.operations import Pass
from clipfast.plan.problem import Problem
from clipfast.plan.times import Times

SINGLE = "single"


@dataclass(frozen=True)
class Plan:
    """One strategy for one step, seen from rank 0, which has as many pairs as any other. Sizes are in bytes.

    ``memory``: parts at the peak; ``sent``: what leaves the rank; ``handed``: bytes by kind as
    ``clipfast.distributed.traffic`` counts them; ``fits``: whether the memory is there.
    """

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
        """Memory beside the features, which the caller holds."""
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
        raise ValueError(f"the machine's device must be the problem's, {problem.device!r}; got {machine.device!r}")
    found = [_single(replace(problem, ranks=1), machine)]
    return found + ([_grouped(problem, machine, name) for name in EXCHANGES] if problem.ranks > 1 else [])


def chosen(problem: Problem) -> str:
    """The strategy that ``strategy="auto"`` takes."""
    if problem.ranks == 1:
        return SINGLE
    return choose(AUTO, problem.rows_of_ranks, problem.dim, getattr(torch, problem.dtype))


def fastest(found: list[Plan]) -> Plan | None:
    """The plan with the shortest step among those that fit; None where none does."""
    return min((plan for plan in found if plan.fits), key=lambda plan: plan.times.step, default=None)


def _single(problem: Problem, machine: Machine) -> Plan:
    passes, parts = operations.single(problem), memory.single(problem)
    took = times.single(problem, machine, passes)
    return Plan(SINGLE, 1, passes, parts, 0, {}, took, _fits(parts, machine))


def _grouped(problem: Problem, machine: Machine, strategy: str) -> Plan:
    passes = operations.grouped(problem, 0, blocks(strategy, problem.rows_of_ranks, 0))
    parts = memory.grouped(problem, strategy, 0)
    sent, handed = bytes_sent.sent(problem, strategy, 0), bytes_sent.handed(problem, strategy, 0)
    took = (times.ring if strategy == "ring" else times.gather)(problem, machine, passes)
    return Plan(strategy, problem.ranks, passes, parts, sent, handed, took, _fits(parts, machine))


def _fits(parts: dict[str, int], machine: Machine) -> bool:
    return sum(parts.values()) <= machine.memory_gib * 2**30
