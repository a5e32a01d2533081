"""Bytes that a rank sends in a step, as the exchanges of ``clipfast.distributed`` send them."""

from __future__ import annotations

from typing import NamedTuple

from clipfast.distributed.blocks import blocks
from clipfast.plan.problem import Problem

NUMBER = 8
"""Bytes of one float64 or int64."""


class ColumnBytes(NamedTuple):
    """Bytes of one column in one pass, tensor by tensor.

    ``inputs`` travel from the column's owner to every rank's rows, ``outputs`` are what the rows leave for the owner.
    """

    inputs: tuple[int, ...]
    outputs: tuple[int, ...]


def column_bytes(problem: Problem) -> list[ColumnBytes]:
    """What travels in each pass over the columns."""
    features = (problem.dim * problem.swept_bytes, *[NUMBER] * problem.normalize)  # with the inverse norm
    accumulated = problem.wants_columns and not problem.symmetric
    gradient = (problem.dim * problem.wide_bytes,) if accumulated else ()
    if not problem.two_passes:
        return [ColumnBytes(features, gradient)]
    softmax = problem.two_directions or problem.symmetric
    weights = (problem.wide_bytes, *[NUMBER, NUMBER] * softmax)  # the factor; the upstream gradient and the log-sum-exp
    sums = (NUMBER,) if problem.two_directions else ()
    second = [ColumnBytes(features + weights, gradient)] if problem.trains else []
    return [ColumnBytes(features, sums), *second]


def small_exchanges(problem: Problem) -> int:
    """How many exchanges of a few numbers a step makes: the ranks' sizes and options, bounds, flags and sums."""
    sides = 1 if problem.symmetric else 2
    inverse_norms = problem.device == "cuda" and problem.dtype == "float16" and problem.normalize
    bounds = sides * (1 + inverse_norms)  # the largest norm and, where rows are divided by theirs in float16, its inverse
    sweeps = 1 + (problem.two_passes and problem.trains)
    compared = 2 if problem.device == "cuda" else 1  # scale and bias travel apart: the host must not wait for them
    range_guard = problem.two_passes
    upstream_bound = problem.trains or not problem.two_passes
    loss = 1
    return compared + sweeps * bounds + range_guard + upstream_bound + loss


def handed(problem: Problem, strategy: str, rank: int) -> dict[str, int]:
    """Bytes by kind as ``clipfast.distributed.traffic`` counts them: what a collective is given, what a send sends.

    The exchanges of a few numbers are not included.
    """
    columns = problem.rows_of_ranks
    if strategy == "ring":
        passed_on = sum(blocks(strategy, columns, rank)[:-1])  # the last block has come round
        counts = {"ring": sum(passed_on * sum(p.inputs) + sum(columns) * sum(p.outputs) for p in column_bytes(problem))}
    else:
        inputs, outputs = (max(columns) * sum(map(sum, kind)) for kind in zip(*column_bytes(problem), strict=True))
        counts = {"gather": inputs, "reduce_scatter": problem.ranks * outputs}
    return {kind: count for kind, count in counts.items() if count}


def sent(problem: Problem, strategy: str, rank: int) -> int:
    """Bytes that leave a rank. Collectives are taken to be rings themselves, in which each piece passes all ranks but one."""
    if strategy == "ring":
        return sum(handed(problem, strategy, rank).values())
    return (problem.ranks - 1) * max(problem.rows_of_ranks) * sum(sum(p.inputs + p.outputs) for p in column_bytes(problem))
