"""What a rank holds at the peak of a step, part by part, in bytes."""

from __future__ import annotations

from clipfast.compute.gemm import cpu_gemm
from clipfast.compute.torch_backend import ROWS_AT_ONCE
from clipfast.distributed.blocks import blocks
from clipfast.plan.bytes_sent import column_bytes
from clipfast.plan.problem import Problem
from clipfast.sweep.schedule import Schedule, longest


def single(problem: Problem) -> dict[str, int]:
    """One process with the whole batch."""
    rows = problem.views * problem.batch
    return _parts(
        **_own(problem, problem.batch, whole=problem.triangle),
        accumulators=_matrix(problem, problem.batch) * _wide_columns(problem),
        workspace=workspace(problem, rows, (rows,)),
    )


def grouped(problem: Problem, strategy: str, rank: int) -> dict[str, int]:
    """One rank of a group with its share of the batch. A ring holds two blocks of features and three of accumulators."""
    longest_block, ranks = max(problem.rows_of_ranks), problem.ranks
    carried, left = (max(map(sum, kind)) for kind in zip(*column_bytes(problem), strict=True))
    in_flight = min(2, ranks - 1)  # of two ranks each gets one block, and has its own
    held = (in_flight, 3) if strategy == "ring" else (ranks, ranks)
    swept = blocks(strategy, problem.rows_of_ranks, rank)
    return _parts(
        **_own(problem, problem.pairs_of_ranks[rank], whole=len(swept) > 1),
        columns=held[0] * longest_block * carried,
        accumulators=held[1] * longest_block * left,
        workspace=workspace(problem, problem.rows_of_ranks[rank], swept),
    )


def _own(problem: Problem, pairs: int, whole: bool) -> dict[str, int]:
    """What belongs to a rank's own pairs. ``whole``: the rows' gradient is complete only at the end of the sweep."""
    both = 2 * _matrix(problem, pairs)
    stacked = both * problem.given_bytes if problem.symmetric else 0  # NT-Xent's views in one matrix
    widened = both * problem.swept_bytes if problem.swept_bytes != problem.given_bytes else 0
    return {
        "features": both * problem.given_bytes,
        "copies": stacked + widened,
        "gradients": _rows_gradient(problem, pairs, whole),
        "rounded": _rounded(problem, pairs),
        "vectors": pairs * _vectors(problem),
    }


def _vectors(problem: Problem) -> int:
    vectors = problem.declared.vector_bytes
    with_closing, without_closing = vectors.closing if _in_place(problem) else (0, 0)
    return vectors.with_gradients + with_closing if problem.trains else vectors.without + without_closing


def _in_place(problem: Problem) -> bool:
    """Whether this machine's float32 products need no temporaries."""
    return problem.device == "cpu" and problem.dtype != "float64" and cpu_gemm()[0].in_place


def _rows_gradient(problem: Problem, pairs: int, whole: bool) -> int:
    count = problem.wants_rows * problem.views * _matrix(problem, pairs)
    at_once = not problem.two_passes or (problem.device == "cpu" and problem.ranks == 1)  # wide until the backward call
    if whole or at_once or problem.given_bytes == problem.wide_bytes:
        return count * problem.wide_bytes
    strip = problem.wants_rows * min(pairs, problem.budget.side) * problem.dim  # a strip of rows is rounded when it is done
    return count * problem.given_bytes + strip * problem.wide_bytes


def _rounded(problem: Problem, pairs: int) -> int:
    """SigLIP's gradients on a GPU once more, as the backward call rounds them; on the CPU the widened copies took more."""
    if problem.two_passes or problem.device == "cpu" or problem.given_bytes == problem.wide_bytes:
        return 0
    return (problem.wants_rows + problem.wants_columns) * _matrix(problem, pairs) * problem.given_bytes


def _wide_columns(problem: Problem) -> int:
    return problem.wide_bytes if problem.wants_columns and not problem.symmetric else 0


def _matrix(problem: Problem, pairs: int) -> int:
    return pairs * problem.dim


def workspace(problem: Problem, rows: int, columns: tuple[int, ...]) -> int:
    """Kept tiles and temporaries: scores, weights and the products' results on the CPU, a tile of weights on a GPU."""
    if problem.one_tile:
        return rows * rows * problem.wide_bytes
    schedule = problem.schedule(rows, columns)
    if problem.device == "cuda":
        return schedule.largest * problem.swept_bytes if problem.trains else 0
    return (schedule.kept + _temporaries(problem, schedule)) * problem.swept_bytes


def _temporaries(problem: Problem, schedule: Schedule) -> int:
    """Numbers beside the kept tiles on the CPU: a tile of scores or weights, and what the products' library cannot add up
    in place."""
    rows, tile, all_kept = schedule.extent.rows, schedule.largest, schedule.found == schedule.swept
    overwritten = problem.two_passes and all_kept  # the weights take the exponentials' place
    if problem.dtype == "float64":  # torch.mm, and row-wise float64 temporaries
        return max((1 if all_kept else 2) * tile, 3 * min(rows, ROWS_AT_ONCE) * problem.dim)
    if _in_place(problem):
        return 0 if problem.trains and overwritten else tile
    if not problem.trains:
        return 2 * tile
    height, width = longest(rows, schedule.side), max(longest(block, schedule.side) for block in schedule.extent.blocks)
    return (1 if overwritten else 2) * tile + (height + width) * problem.dim


def _parts(**parts: int) -> dict[str, int]:
    return {name: size for name, size in parts.items() if size}
