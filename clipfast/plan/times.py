"""Seconds of a step on a machine: arithmetic, transfers, and how much of the one hides the other."""

from __future__ import annotations

import math
from typing import NamedTuple

from clipfast.plan.bytes_sent import ColumnBytes, column_bytes, small_exchanges
from clipfast.plan.machine import Machine
from clipfast.plan.operations import Pass
from clipfast.plan.problem import Problem


class Times(NamedTuple):
    """Seconds: ``compute``, ``transfer`` as if nothing ran beside it, and ``exposed``, the part that no arithmetic hides."""

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
    """Collectives before and after each sweep, one for each tensor. No arithmetic runs beside them."""
    columns, small = problem.ranks * max(problem.rows_of_ranks), _small(problem, machine)
    tensors = [size for p in column_bytes(problem) for size in p.inputs + p.outputs]
    transfer = sum(_collective(problem, machine, columns * size) for size in tensors) + small
    return Times(_compute(problem, machine, passes), transfer, transfer)


def ring(problem: Problem, machine: Machine, passes: list[Pass]) -> Times:
    """While a rank works on one block, the next block's inputs and the previous block's outputs are on their way."""
    hops, small = [_hops(problem, machine, p) for p in column_bytes(problem)], _small(problem, machine)
    transfer = sum((problem.ranks - 1) * inputs + problem.ranks * outputs for inputs, outputs in hops)
    blocks = [_seconds(machine, p) / problem.ranks for p in passes]
    exposed = sum(ring_exposed(problem.ranks, block, *both) for block, both in zip(blocks, hops, strict=True))
    return Times(_compute(problem, machine, passes), transfer + small, exposed + small)


def ring_exposed(ranks: int, block: float, inputs: float, outputs: float) -> float:
    """Seconds of one pass in which a rank waits; ``block``: arithmetic of one block, ``inputs`` and ``outputs``: one hop.

    Beside the first block no outputs travel, beside the last no inputs; no arithmetic hides the last block's outputs.
    """
    waits = [inputs - block, *[inputs + outputs - block] * (ranks - 2), outputs - block]
    return sum(max(0.0, wait) for wait in waits) + outputs


def _compute(problem: Problem, machine: Machine, passes: list[Pass]) -> float:
    return sum(_seconds(machine, p) for p in passes) + _row_wise(problem, machine, max(problem.pairs_of_ranks))


def _seconds(machine: Machine, one: Pass) -> float:
    return one.operations / (machine.product_tflops * 1e12 * machine.sweep_share) + one.tiles * machine.tile_us * 1e-6


def _row_wise(problem: Problem, machine: Machine, pairs: int) -> float:
    """Norms, positives and the completion of the gradients, each of which reads or writes every number of a matrix once."""
    numbers = 2 * pairs * problem.dim
    read = 2 * problem.swept_bytes  # norms, positives
    if problem.trains:
        read += 2 * problem.swept_bytes + 3 * problem.wide_bytes  # the row, its partner; the accumulator cleared, read, written
    return numbers * read / (machine.copy_gb_s * 1e9)


def _hops(problem: Problem, machine: Machine, p: ColumnBytes) -> tuple[float, float]:
    """Seconds in which a block's inputs, and its outputs, go to the next rank, over the slowest link of the ring."""
    crosses = problem.ranks > machine.node_ranks
    rate, start = (machine.network_gb_s, machine.network_us) if crosses else (machine.node_gb_s, machine.node_us)
    block = max(problem.rows_of_ranks)
    inputs, outputs = (start * 1e-6 + block * sum(sizes) / (rate * 1e9) if sizes else 0.0 for sizes in p)
    return inputs, outputs


def _small(problem: Problem, machine: Machine) -> float:
    """Seconds of the exchanges of a few numbers, each a tree of log2(ranks) messages, one after the other."""
    nodes = math.ceil(problem.ranks / machine.node_ranks)
    within = min(problem.ranks, machine.node_ranks)
    start = math.ceil(math.log2(within)) * machine.node_us + math.ceil(math.log2(nodes)) * machine.network_us
    return small_exchanges(problem) * start * 1e-6


def _collective(problem: Problem, machine: Machine, size: int) -> float:
    """Seconds of an all-gather or reduce-scatter of ``size`` bytes by ring algorithms, on all network cards of a node."""
    within = min(problem.ranks, machine.node_ranks)
    nodes = math.ceil(problem.ranks / machine.node_ranks)
    start = (within - 1) * machine.node_us + (nodes - 1) * machine.network_us
    inside = size * (problem.ranks - 1) / problem.ranks / (machine.node_gb_s * 1e9)
    between = size * (nodes - 1) / nodes / (within * machine.network_gb_s * 1e9)
    return start * 1e-6 + max(inside if within > 1 else 0.0, between)
