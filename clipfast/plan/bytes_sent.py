"""Bytes that a rank sends in a step, as ``clipfast.distributed`` sends them."""

from __future__ import annotations

from typing import NamedTuple

from clipfast.plan.problem import Problem

NUMBER = 8
"""Bytes of one float64 or int64."""
STRATEGIES = ("gather", "ring")


class ColumnBytes(NamedTuple):
    """Of one column in one pass, tensor by tensor: what travels to every rank's rows, and what they leave for its owner."""

    carried: tuple[int, ...]
    left: tuple[int, ...]


def column_bytes(problem: Problem) -> list[ColumnBytes]:
    """For each pass over the columns."""
    features = (problem.dim * problem.swept_bytes, *[NUMBER] * problem.normalize)  # with the inverse norm
    accumulated = problem.wants_columns and not problem.symmetric
    gradient = (problem.dim * problem.wide_bytes,) if accumulated else ()
    if not problem.two_passes:
        return [ColumnBytes(features, gradient)]
    softmax = problem.two_directions or problem.symmetric
    weights = (problem.wide_bytes, *[NUMBER, NUMBER] * softmax)  # factor; share and log-sum-exp
    again = [ColumnBytes(features + weights, gradient)] if problem.trains else []
    return [ColumnBytes(features, (NUMBER,) if problem.two_directions else ()), *again]


def few_numbers(problem: Problem) -> int:
    """Exchanges of sizes, bounds, flags and sums in a step, a few numbers each."""
    sides = 1 if problem.symmetric else 2
    bounds = sides * (2 if problem.device == "cuda" and problem.dtype == "float16" and problem.normalize else 1)
    sweeps = 1 + (problem.two_passes and problem.trains)
    compared = 2 if problem.device == "cuda" else 1  # scale and bias travel apart where the host must not look
    scaled = problem.trains or not problem.two_passes
    return compared + sweeps * bounds + problem.two_passes + scaled + 1  # the range guard's flag; the share's bound; the loss


def handed(problem: Problem, strategy: str, rank: int) -> dict[str, int]:
    """Bytes by kind as ``clipfast.distributed.traffic`` counts them: what a collective is given, what a send sends.

    Without the exchanges of a few numbers.
    """
    columns = problem.rows_of_ranks
    if strategy == "gather":
        carried, left = (max(columns) * sum(map(sum, kind)) for kind in zip(*column_bytes(problem), strict=True))
        counts = {"gather": carried, "reduce_scatter": problem.ranks * left}
    else:
        passed_on = sum(columns) - columns[(rank + 1) % problem.ranks]  # its own block comes to an end one rank before it
        counts = {"ring": sum(passed_on * sum(p.carried) + sum(columns) * sum(p.left) for p in column_bytes(problem))}
    return {kind: count for kind, count in counts.items() if count}


def sent(problem: Problem, strategy: str, rank: int) -> int:
    """Bytes that leave a rank; for collectives by their ring algorithms, in which each piece passes all ranks but one."""
    if strategy == "ring":
        return sum(handed(problem, strategy, rank).values())
    return (problem.ranks - 1) * max(problem.rows_of_ranks) * sum(sum(p.carried + p.left) for p in column_bytes(problem))
