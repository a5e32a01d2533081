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
    schedule = problem.schedule(problem.rows, (problem.rows,))
    return _parts(
        **_own(problem, problem.batch, whole=schedule.extent.triangle),
        accumulators=_matrix(problem, problem.batch) * _wide_columns(problem),
        workspace=problem.rows**2 * problem.wide_bytes if problem.one_tile else _workspace(problem, schedule),
    )


def grouped(problem: Problem, strategy: str, rank: int) -> dict[str, int]:
    """One rank of a group with its share of the batch."""
    longest_block, ranks = max(problem.rows_of_ranks), problem.ranks
    inputs, outputs = (max(map(sum, kind)) for kind in zip(*column_bytes(problem), strict=True))
    # A ring holds two blocks that have come from other ranks (with two ranks there is one other), and three of outputs.
    held_inputs, held_outputs = (min(2, ranks - 1), 3) if strategy == "ring" else (ranks, ranks)
    swept = blocks(strategy, problem.rows_of_ranks, rank)
    return _parts(
        **_own(problem, problem.pairs_of_ranks[rank], whole=len(swept) > 1),
        columns=held_inputs * longest_block * inputs,
        accumulators=held_outputs * longest_block * outputs,
        workspace=_workspace(problem, problem.schedule(problem.rows_of_ranks[rank], swept)),
    )


def _own(problem: Problem, pairs: int, whole: bool) -> dict[str, int]:
    """What belongs to a rank's own pairs. ``whole``: no row's gradient is complete before the end of the sweep."""
    both = 2 * _matrix(problem, pairs)
    stacked = both * problem.given_bytes if problem.symmetric else 0  # both views in one matrix
    widened = both * problem.swept_bytes if problem.swept_bytes != problem.given_bytes else 0
    return {
        "features": both * problem.given_bytes,
        "copies": stacked + widened,
        "gradients": _rows_gradient(problem, pairs, whole),
        "rounded": _rounded(problem, pairs),
        "vectors": pairs * _vectors(problem),
    }


def _vectors(problem: Problem) -> int:
    """Bytes of norms, sums, losses and weights for one pair."""
    vectors = problem.declared.vector_bytes
    with_closing, without_closing = vectors.closing if _in_place(problem) else (0, 0)
    return vectors.with_gradients + with_closing if problem.trains else vectors.without + without_closing


def _in_place(problem: Problem) -> bool:
    """Whether this machine's float32 products need no temporaries."""
    return problem.device == "cpu" and problem.dtype != "float64" and cpu_gemm()[0].in_place


def _rows_gradient(problem: Problem, pairs: int, whole: bool) -> int:
    count = problem.wants_rows * problem.views * _matrix(problem, pairs)
    with_the_value = not problem.two_passes or (problem.device == "cpu" and problem.ranks == 1)  # wide until the backward call
    if whole or with_the_value or problem.given_bytes == problem.wide_bytes:
        return count * problem.wide_bytes
    strip = problem.wants_rows * min(pairs, problem.budget.side) * problem.dim  # a strip of rows is rounded when it is done
    return count * problem.given_bytes + strip * problem.wide_bytes


def _rounded(problem: Problem, pairs: int) -> int:
    """The rounded gradients that a loss of one pass holds beside the wide ones in its backward call on a GPU.

    On the CPU the peak comes earlier, while the widened features are there.
    """
    if problem.two_passes or problem.device == "cpu" or problem.given_bytes == problem.wide_bytes:
        return 0
    return (problem.wants_rows + problem.wants_columns) * _matrix(problem, pairs) * problem.given_bytes


def _wide_columns(problem: Problem) -> int:
    """Bytes of one number of the columns' gradient."""
    return problem.wide_bytes if problem.wants_columns and not problem.symmetric else 0


def _matrix(problem: Problem, pairs: int) -> int:
    """Numbers of one side's features."""
    return pairs * problem.dim


def _workspace(problem: Problem, schedule: Schedule) -> int:
    """Kept tiles and temporaries: scores, weights and the products' results on the CPU, a tile of weights on a GPU."""
    if problem.device == "cuda":
        return schedule.largest * problem.swept_bytes if problem.trains else 0
    return (schedule.kept + _temporaries(problem, schedule)) * problem.swept_bytes


def _temporaries(problem: Problem, schedule: Schedule) -> int:
    """Numbers beside the kept tiles on the CPU: a tile of scores or weights, and products that are not added up in place."""
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
