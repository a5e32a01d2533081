"""Floating-point operations and tiles of a sweep, counted from its schedule."""

from __future__ import annotations

from typing import NamedTuple

from clipfast.plan.problem import Problem
from clipfast.sweep.schedule import Schedule


class Pass(NamedTuple):
    """One pass over all tiles: operations of its products (two for each multiplication), and tiles."""

    operations: int
    tiles: int


class Areas(NamedTuple):
    """A sweep in numbers, named as in ``Schedule``.

    ``swept``: logits computed; ``mirrored``: logits whose weights are multiplied a second time, for the columns' gradient;
    ``found``: logits whose exponentials pass 2 finds; ``tiles``: tiles of a pass.
    """

    swept: int
    mirrored: int
    found: int
    tiles: int

    @classmethod
    def of(cls, schedule: Schedule) -> Areas:
        return cls(schedule.swept, schedule.mirrored, schedule.found, schedule.count)


def single(problem: Problem) -> list[Pass]:
    """The passes of one process with the whole batch."""
    if problem.one_tile:
        area = problem.rows**2
        return _passes(problem, Areas(swept=area, mirrored=area, found=area, tiles=1))
    return _passes(problem, Areas.of(problem.schedule(problem.rows, (problem.rows,))))


def grouped(problem: Problem, rank: int, blocks: tuple[int, ...]) -> list[Pass]:
    """The passes of one rank: its rows with every column, which come in ``blocks``."""
    return _passes(problem, Areas.of(problem.schedule(problem.rows_of_ranks[rank], blocks)))


def _passes(problem: Problem, areas: Areas) -> list[Pass]:
    """A product of one logit is ``2 * dim`` operations: one for the score, and one for each gradient that it feeds."""
    product = 2 * problem.dim
    weighted = problem.wants_rows * areas.swept + problem.wants_columns * areas.mirrored
    if not problem.two_passes:
        return [Pass((areas.swept + weighted) * product, areas.tiles)]
    second = [Pass((areas.swept - areas.found + weighted) * product, areas.tiles)] if problem.trains else []
    return [Pass(areas.swept * product, areas.tiles), *second]
