"""Floating-point operations and tiles of a sweep, counted as the sweep makes them."""

from __future__ import annotations

import itertools
import math
from typing import NamedTuple

from clipfast.backends.registry import SMALL
from clipfast.plan.problem import Problem
from clipfast.sweep.tiling import SMALLEST_SIDE, strips, tiles


class Pass(NamedTuple):
    """One pass over all tiles: operations of its products (two for each multiplication), and tiles."""

    operations: int
    tiles: int


class Areas(NamedTuple):
    """Logits of a sweep: computed, multiplied a second time for the columns' gradient, and kept between the passes."""

    swept: int
    transposed: int
    kept: int


def single(problem: Problem) -> list[Pass]:
    """The passes of one process with the whole batch."""
    rows, swept = problem.views * problem.batch, swept_logits(problem)
    if rows * rows <= SMALL:
        return _passes(problem, Areas(swept, swept, swept), 1)
    side = tile_side(problem)
    across, down = len(strips(rows, side)), len(strips(rows, strip_height(problem, rows) or side))
    transposed, count = (rows * rows - swept, math.comb(across + 1, 2)) if problem.triangle else (swept, down * across)
    return _passes(problem, Areas(swept, transposed, kept_logits(problem, rows, (rows,))), count)


def swept_logits(problem: Problem) -> int:
    """Logits that one process computes: all, or NT-Xent's on and above the diagonal, in whole tiles."""
    rows = problem.views * problem.batch
    if not problem.triangle or rows * rows <= SMALL:
        return rows * rows
    diagonal = sum((end - start) ** 2 for start, end in strips(rows, tile_side(problem)))
    return (rows * rows + diagonal) // 2


def grouped(problem: Problem, rank: int, blocks: tuple[int, ...]) -> list[Pass]:
    """The passes of one rank: its rows with every column, which come in ``blocks``."""
    rows, side = problem.rows_of_ranks[rank], tile_side(problem)
    count = len(strips(rows, side)) * sum(len(strips(block, side)) for block in blocks)
    area = rows * sum(blocks)
    transposed = 0 if problem.symmetric else area  # a mirror image is a row of some rank's own
    return _passes(problem, Areas(area, transposed, kept_logits(problem, rows, blocks)), count)


def tile_side(problem: Problem) -> int:
    return problem.budget.triangle_side if problem.triangle else problem.budget.side


def kept_room(problem: Problem, rows: int) -> int:
    """Exponentials that the workspace is given room for between the passes."""
    if not (problem.two_passes and problem.trains):
        return 0
    columns = rows if problem.ranks == 1 else None
    return int(problem.budget.kept_elements(rows, columns, rows * problem.dim if problem.symmetric else 0))


def strip_height(problem: Problem, rows: int) -> int:
    """Rows of a strip that both of InfoNCE's passes visit before the next one, its exponentials kept; 0 for whole passes."""
    room = kept_room(problem, rows)
    height = min(room // rows, tile_side(problem))
    one_sided = problem.ranks == 1 and problem.device == "cpu" and not (problem.two_directions or problem.symmetric)
    return 0 if not one_sided or room >= rows * rows or height < SMALLEST_SIDE else height


def kept_logits(problem: Problem, rows: int, blocks: tuple[int, ...]) -> int:
    """Exponentials that pass 2 finds: whole tiles, the first ones of the sweep, or all, strip by strip."""
    if strip_height(problem, rows):
        return rows * sum(blocks)
    room, side = kept_room(problem, rows), tile_side(problem)
    cut = (tile for block in blocks for tile in tiles(rows, block, side, problem.triangle))
    filled = itertools.accumulate(math.prod(tile.shape) for tile in cut)
    return max(itertools.takewhile(lambda total: total <= room, filled), default=0)


def _passes(problem: Problem, areas: Areas, count: int) -> list[Pass]:
    """A product of one logit is ``2 * dim`` operations: one for the score, and one for each gradient that it feeds."""
    once = 2 * problem.dim
    weighted = problem.wants_rows * areas.swept + problem.wants_columns * areas.transposed
    if not problem.two_passes:
        return [Pass((areas.swept + weighted) * once, count)]
    again = [Pass((areas.swept - areas.kept + weighted) * once, count)] if problem.trains else []
    return [Pass(areas.swept * once, count), *again]
