"""Bytes that a rank sends in a step, as ``clipfast.distributed`` sends them."""

from __future__ import annotations

from typing import NamedTuple

from clipfast.plan.problem import Problem

NUMBER = 8
"""Bytes of one float64 or int64."""
STRATEGIES = ("gather", "ring")


class ColumnBytes(NamedTuple):
    """Of one column in one pass: what travels to every rank's rows, and what they leave at it for its owner."""

    carried: int
    left: int


def column_bytes(problem: Problem) -> list[ColumnBytes]:
    """For each pass over the columns."""
    features = problem.dim * problem.swept_bytes + problem.normalize * NUMBER  # with the inverse norm
    gradient = problem.dim * problem.wide_bytes if problem.wants_columns and not problem.symmetric else 0
    if not problem.two_passes:
        return [ColumnBytes(features, gradient)]
    sums = NUMBER if problem.two_directions else 0
    softmax = problem.two_directions or problem.symmetric
    weights = problem.wide_bytes + (2 * NUMBER if softmax else 0)  # factor; share and log-sum-exp
    again = [ColumnBytes(features + weights, gradient)] if problem.trains else []
    return [ColumnBytes(features, sums), *again]


def blocks(problem: Problem, strategy: str) -> tuple[int, ...]:
    """Columns that a rank sees at once: each rank's, or all of them where they were gathered in equal pieces."""
    columns = problem.rows_of_ranks
    return (sum(columns),) if strategy == "gather" and len(set(columns)) == 1 else columns


def handed(problem: Problem, strategy: str, rank: int) -> dict[str, int]:
    """Bytes by kind as ``clipfast.distributed.traffic`` counts them: what a collective is given, what a send sends.

    Without the exchanges of a few numbers.
    """
    columns = problem.rows_of_ranks
    if strategy == "gather":
        carried, left = (max(columns) * sum(kind) for kind in zip(*column_bytes(problem), strict=True))
        counts = {"gather": carried, "reduce_scatter": problem.ranks * left}
    else:
        passed_on = sum(columns) - columns[(rank + 1) % problem.ranks]  # its own block comes to an end one rank before it
        counts = {"ring": sum(passed_on * p.carried + sum(columns) * p.left for p in column_bytes(problem))}
    return {kind: count for kind, count in counts.items() if count}


def sent(problem: Problem, strategy: str, rank: int) -> int:
    """Bytes that leave a rank; for collectives by their ring algorithms, in which each piece passes all ranks but one."""
    if strategy == "ring":
        return sum(handed(problem, strategy, rank).values())
    return (problem.ranks - 1) * max(problem.rows_of_ranks) * sum(sum(p) for p in column_bytes(problem))
