"""Two, three and four processes against one, in float64: every loss, strategy and reduction, with uneven batches."""

from __future__ import annotations

import itertools
from pathlib import Path

import pytest
import torch
import torch.distributed as dist
from distributed_cases import LOSSES, SIZES, STRATEGIES, Batch, Call, check, converged_pairs
from helpers import CLIP, INFO_NCE, NT_XENT, error
from processes import run_processes

import clipfast

pytestmark = pytest.mark.skipif(not dist.is_available() or not dist.is_gloo_available(), reason="needs gloo")
EXACT = 1e-10


@pytest.mark.parametrize("ranks", [2, 3, 4])
def test_values_and_gradients(ranks: int, tmp_path: Path) -> None:
    run_processes(everything, tmp_path, ranks, seconds=120)


def everything(rank: int) -> None:
    group = dist.group.WORLD
    for rows in (SIZES[: group.size()], (6,) * group.size()):
        batch = Batch.of(rows, unit=False)
        for loss, strategy, reduction in itertools.product(LOSSES, STRATEGIES, ("mean", "sum", "none")):
            call = Call(loss, options={"normalize": True})
            check(call, batch, rank, group, EXACT, reduction, strategy=strategy)
        for loss, strategy in itertools.product(LOSSES, STRATEGIES):
            call = Call(loss, 3.0, options={"normalize": False})
            check(call, Batch.of(rows), rank, group, EXACT, "mean", strategy=strategy, gradient_reduction="sum")


def test_special_cases(tmp_path: Path) -> None:
    run_processes(special, tmp_path, 3, seconds=120)


def special(rank: int) -> None:
    group = dist.group.WORLD
    for strategy in STRATEGIES:
        partial_gradients(rank, group, strategy)
        targets(rank, group, strategy)
        one_pair_each(rank, group, strategy)
        many_tiles(rank, group, strategy)
        outside_the_window(rank, group, strategy)
        statistics(rank, group, strategy)
    part_of_the_processes(rank)


def partial_gradients(rank: int, group: dist.ProcessGroup, strategy: str) -> None:
    """Locked towers, a fixed scale, a scale alone, and evaluation."""
    batch = Batch.of(SIZES[:3])
    for loss, wants in itertools.product(LOSSES, [("a",), ("b",), ("scale",), ("b", "bias"), ("bias",), ()]):
        if wants == ("bias",) and not loss.has_bias:
            continue
        check(Call(loss, wants=wants), batch, rank, group, EXACT, "mean", strategy=strategy)


def targets(rank: int, group: dist.ProcessGroup, strategy: str) -> None:
    """Columns of the same rank, some rows without one, more columns than rows, columns that several rows share."""
    rows, cols = (4, 6, 2), (7, 6, 5)
    batch = Batch.of(rows, cols)
    for reduction in ("mean", "sum", "none"):
        check(Call(INFO_NCE), batch, rank, group, EXACT, reduction, strategy=strategy)  # hard negatives behind the positives
    batch.targets = tuple(torch.tensor(t) for t in ([3, -100, 0, 6], [5, 4, 3, 2, 1, 0], [-100, 4]))
    for reduction in ("mean", "sum", "none"):
        check(Call(CLIP), batch, rank, group, EXACT, reduction, strategy=strategy)
    batch.targets = tuple(torch.tensor(t) for t in ([3, 3, -100, 3], [5, 5, 3, 2, 2, -100], [-100, -100]))
    for reduction in ("mean", "sum", "none"):
        check(Call(INFO_NCE), batch, rank, group, EXACT, reduction, strategy=strategy)


def one_pair_each(rank: int, group: dist.ProcessGroup, strategy: str) -> None:
    for loss in LOSSES:
        check(Call(loss), Batch.of((1, 1, 1)), rank, group, EXACT, "mean", strategy=strategy)
        check(Call(loss), Batch.of((1, 200, 2)), rank, group, EXACT, "mean", strategy=strategy)
    alike = Batch.of((1, 200, 2))
    alike.a, alike.b = (1 + x / 1000 for x in (alike.a, alike.b))  # all logits near the bound: their sum must not overflow
    call = Call(CLIP, 100.0, torch.float32, wants=(), options={"normalize": True})
    check(call, alike, rank, group, 1e-6, "mean", strategy=strategy)


def many_tiles(rank: int, group: dist.ProcessGroup, strategy: str) -> None:
    """Blocks of several tiles each, ragged."""
    batch = Batch.of((150, 90, 131))
    for loss in LOSSES:
        check(Call(loss), batch, rank, group, EXACT, "mean", strategy=strategy, workspace_bytes=8 * 2 * 64 * (64 + 24))


def outside_the_window(rank: int, group: dist.ProcessGroup, strategy: str) -> None:
    """One rank's rows alone need the exact path, which all ranks must take together; and features that have converged."""
    batch = Batch.of(SIZES[:3])
    batch.a[batch.row_slice(1)] = -batch.b.sum(0)
    for loss in (CLIP, INFO_NCE, NT_XENT):
        for dtype, limit in ((torch.float64, EXACT), (torch.float32, 1e-5)):
            call = Call(loss, 3000.0, dtype, options={"normalize": True})
            check(call, batch, rank, group, limit, "mean", strategy=strategy)
    a, b = converged_pairs(19, 24, 0.1)
    for loss in LOSSES:
        check(Call(loss, 30.0), Batch(a, b, SIZES[:3], SIZES[:3]), rank, group, EXACT, "mean", strategy=strategy)


def statistics(rank: int, group: dist.ProcessGroup, strategy: str) -> None:
    """Each rank's own part of the log-sum-exps and positives, and of the accuracies."""
    rows = SIZES[:3]
    batch = Batch.of(rows)
    a, b = batch.part(rank)
    _, got = clipfast.clip_loss(a, b, 10.0, return_stats=True, group=group, strategy=strategy)
    _, want = clipfast.clip_loss(batch.a, batch.b, 10.0, return_stats=True, backend="reference")
    own = batch.row_slice(rank)
    for mine, whole in zip(got[:3], want[:3], strict=True):
        assert error(mine, whole[own]) < EXACT
    for mine, whole in zip(got[3:], want[3:], strict=True):
        total = mine * rows[rank]
        dist.all_reduce(total, group=group)
        assert abs(float(total / sum(rows) - whole)) < 1e-6


def part_of_the_processes(rank: int) -> None:
    """A group of ranks 2 and 0, in that order of neither rank nor size; rank 1 goes on alone."""
    group = dist.new_group([0, 2])
    if rank == 1:
        check_alone = clipfast.siglip_loss(*Batch.of((4,)).part(0), 10.0, -10.0)
        assert check_alone.isfinite()
        return
    batch = Batch.of((4, 7))
    for loss, strategy in itertools.product(LOSSES, STRATEGIES):
        check(Call(loss), batch, dist.get_rank(group), group, EXACT, "mean", strategy=strategy)


def test_lower_precision(tmp_path: Path) -> None:
    run_processes(precision, tmp_path, 2)


def precision(rank: int) -> None:
    """As accurate as in one process: float32 to 1e-6 or so, half precision to the rounding of the results."""
    group = dist.group.WORLD
    backends = [None, "torch"]
    limits = {torch.float32: 3e-6, torch.bfloat16: 4e-3, torch.float16: 5e-4}
    for loss, strategy, backend in itertools.product(LOSSES, STRATEGIES, backends):
        for dtype, limit in limits.items():
            call = Call(loss, dtype=dtype, options={"normalize": True, "backend": backend})
            want = Call(loss, dtype=dtype, options={"normalize": True})
            batch = Batch.of((130, 70), unit=dtype != torch.float32)
            got = call.everywhere(batch, rank, group, strategy=strategy)
            exact = want.expected(batch, rank)
            errors = {k: error(g / 2, exact.grads[k]) for k, g in got.grads.items()}
            assert error(got.value, exact.value) < 1e-6
            assert max(errors.values()) < limit, (loss, strategy, backend, dtype, errors)
        same_bits_again(Call(loss, dtype=torch.float32), Batch.of((130, 70)), rank, group, strategy)


def same_bits_again(call: Call, batch: Batch, rank: int, group: dist.ProcessGroup, strategy: str) -> None:
    first, second = (call.run(*batch.part(rank), group=group, strategy=strategy) for _ in range(2))
    assert torch.equal(first.value, second.value)
    assert all(torch.equal(first.grads[k], second.grads[k]) for k in first.grads)
