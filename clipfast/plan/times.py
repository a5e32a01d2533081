"""Seconds of a step on a machine: arithmetic, transfers, and how much of the one hides the other."""

from __future__ import annotations

import math
from typing import NamedTuple

from clipfast.plan.bytes_sent import ColumnBytes, column_bytes, few_numbers
from clipfast.plan.machine import Machine
from clipfast.plan.operations import Pass
from clipfast.plan.problem import Problem


class Times(NamedTuple):
    """Seconds: ``compute``, ``transfer`` as if alone, and ``exposed``, the part of it that no arithmetic hides."""

    compute: float
    transfer: float = 0.0
    exposed: float = 0.0

    @property
    def step(self) -> float:
        return self.compute + self.exposed

    @property
    def overlap(self) -> float:
        """Share of the transfers that arithmetic hides."""
        return 1 - self.exposed / self.transfer if self.transfer else 0.0


def single(problem: Problem, machine: Machine, passes: list[Pass]) -> Times:
    return Times(sum(_seconds(machine, p) for p in passes) + _row_wise(problem, machine, problem.batch))


def gather(problem: Problem, machine: Machine, passes: list[Pass]) -> Times:
    """Collectives before and after each sweep, one for each tensor, with nothing beside them."""
    columns, few = problem.ranks * max(problem.rows_of_ranks), _few(problem, machine)
    tensors = [size for p in column_bytes(problem) for size in p.carried + p.left]
    transfer = sum(_collective(problem, machine, columns * size) for size in tensors) + few
    return Times(_compute(problem, machine, passes), transfer, transfer)


def ring(problem: Problem, machine: Machine, passes: list[Pass]) -> Times:
    """While a rank works on one block, the next one's features and the previous one's sums are on their way."""
    hops, few = [_hops(problem, machine, p) for p in column_bytes(problem)], _few(problem, machine)
    transfer = sum((problem.ranks - 1) * carried + problem.ranks * left for carried, left in hops)
    blocks = [_seconds(machine, p) / problem.ranks for p in passes]
    exposed = sum(ring_exposed(problem.ranks, block, *both) for block, both in zip(blocks, hops, strict=True))
    return Times(_compute(problem, machine, passes), transfer + few, exposed + few)


def ring_exposed(ranks: int, block: float, carried: float, left: float) -> float:
    """Of one pass: its first block has no sums to bring, its last no features, and the last sums have nothing beside them."""
    waits = [carried - block, *[carried + left - block] * (ranks - 2), left - block]
    return sum(max(0.0, wait) for wait in waits) + left


def _compute(problem: Problem, machine: Machine, passes: list[Pass]) -> float:
    return sum(_seconds(machine, p) for p in passes) + _row_wise(problem, machine, max(problem.pairs_of_ranks))


def _seconds(machine: Machine, one: Pass) -> float:
    return one.operations / (machine.product_tflops * 1e12 * machine.sweep_share) + one.tiles * machine.tile_us * 1e-6


def _row_wise(problem: Problem, machine: Machine, pairs: int) -> float:
    """Norms, positives and the completion of the gradients: each reads or writes every number of its matrices once."""
    numbers = 2 * pairs * problem.dim
    read = 2 * problem.swept_bytes  # norms, positives
    if problem.trains:
        read += 2 * problem.swept_bytes + 3 * problem.wide_bytes  # own row, partner; accumulator cleared, read, written
    return numbers * read / (machine.copy_gb_s * 1e9)


def _hops(problem: Problem, machine: Machine, p: ColumnBytes) -> tuple[float, float]:
    """Seconds in which a block's features, and its sums, go to the next rank: over the slowest link of the ring."""
    crosses = problem.ranks > machine.node_ranks
    rate, start = (machine.network_gb_s, machine.network_us) if crosses else (machine.node_gb_s, machine.node_us)
    block = max(problem.rows_of_ranks)
    carried, left = (start * 1e-6 + block * sum(sizes) / (rate * 1e9) if sizes else 0.0 for sizes in p)
    return carried, left


def _few(problem: Problem, machine: Machine) -> float:
    """Exchanges of a few numbers, each in as many messages one after the other as the ranks can be halved."""
    nodes = math.ceil(problem.ranks / machine.node_ranks)
    within = min(problem.ranks, machine.node_ranks)
    start = math.ceil(math.log2(within)) * machine.node_us + math.ceil(math.log2(nodes)) * machine.network_us
    return few_numbers(problem) * start * 1e-6


def _collective(problem: Problem, machine: Machine, size: int) -> float:
    """An all-gather or reduce-scatter of ``size`` bytes by ring algorithms, which use every network card of a node."""
    within = min(problem.ranks, machine.node_ranks)
    nodes = math.ceil(problem.ranks / machine.node_ranks)
    start = (within - 1) * machine.node_us + (nodes - 1) * machine.network_us
    inside = size * (problem.ranks - 1) / problem.ranks / (machine.node_gb_s * 1e9)
    between = size * (nodes - 1) / nodes / (within * machine.network_gb_s * 1e9)
    return start * 1e-6 + max(inside if within > 1 else 0.0, between)
