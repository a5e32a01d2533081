"""Operations of the plan against the products that the losses make, counted as they run."""

from __future__ import annotations

import pytest
import torch
from helpers import LOSSES, SWEEPS, Loss, counted_products, each_sweep, random_pairs, small_tiles
from plan_cases import SERVED
from torch.utils.flop_counter import FlopCounterMode

from clipfast.common.limits import using
from clipfast.plan import operations
from clipfast.plan.problem import Problem

SIDES = {"both": (True, True), "rows": (True, False), "columns": (False, True), "none": (False, False)}


def planned(loss: Loss, n: int, d: int, gradients: str, dtype: str = "float32", workspace: int | None = None) -> Problem:
    return Problem(loss.name, n, d, dtype, gradients=gradients, device="cpu", workspace_bytes=workspace)


def counted(loss: Loss, problem: Problem, backend: str) -> int:
    a, b = (x.to(getattr(torch, problem.dtype)) for x in random_pairs(problem.batch, problem.dim))
    for x, wanted in zip((a, b), SIDES[problem.gradients], strict=True):
        x.requires_grad_(wanted)
    with counted_products(backend) as counts:
        value = loss(a, b, loss.knob(10.0), backend=backend, workspace_bytes=problem.workspace_bytes)
        if problem.trains:
            value.backward()
    return 2 * sum(counts.values())


each_case = pytest.mark.parametrize(("loss", "gradients"), SERVED, ids=lambda value: getattr(value, "name", value))


@each_sweep
@each_case
def test_operations_are_those_of_the_loss(loss: Loss, gradients: str, backend: str) -> None:
    """Ragged strips; no tile kept, some kept, all kept. A backend that is named sweeps small batches too."""
    for kept in (0, 500, 10**6):
        with small_tiles(), using(kept_logits=kept, single_logits=0):
            problem = planned(loss, 33, 8, gradients)
            expected = sum(p.operations for p in operations.single(problem))
            assert counted(loss, problem, backend) == expected, kept


@pytest.mark.parametrize("dtype", ["float32", "bfloat16", "float64"])
@pytest.mark.parametrize("loss", LOSSES, ids=lambda loss: loss.name)
def test_operations_with_the_tiles_that_the_budget_keeps(loss: Loss, dtype: str) -> None:
    problem = planned(loss, 700, 24, "both", dtype, workspace=2**20)
    backend = "torch" if dtype == "float64" else SWEEPS[-1]
    assert counted(loss, problem, backend) == sum(p.operations for p in operations.single(problem))


@each_sweep
@pytest.mark.parametrize("loss", LOSSES, ids=lambda loss: loss.name)
def test_room_for_a_strip_of_rows(loss: Loss, backend: str) -> None:
    """InfoNCE then computes no score twice; the other losses find some tiles or none."""
    with using(kept_logits=100_000):
        problem = planned(loss, 700, 24, "both")
        assert counted(loss, problem, backend) == sum(p.operations for p in operations.single(problem))
        if loss.name == "info_nce":
            assert [p.operations for p in operations.single(problem)] == [2 * 24 * 700**2, 4 * 24 * 700**2]


@pytest.mark.parametrize("kept", [0, 500, 10**6])
@pytest.mark.parametrize("loss", LOSSES, ids=lambda loss: loss.name)
def test_counts_are_those_of_the_schedule_s_tiles(loss: Loss, kept: int) -> None:
    with small_tiles(), using(kept_logits=kept, single_logits=0):
        problem = planned(loss, 33, 8, "both")
        rows = problem.views * problem.batch
        schedule = problem.schedule(rows, (rows,))
        cut = list(schedule.tiles(0))
        assert {p.tiles for p in operations.single(problem)} == {len(cut)} == {schedule.count}
        assert schedule.swept == sum(tile.area for tile in cut)
        assert schedule.found == sum(tile.area for tile in cut if tile.slot is not None)


@pytest.mark.parametrize("loss", LOSSES, ids=lambda loss: loss.name)
def test_a_batch_that_runs_as_one_tile(loss: Loss) -> None:
    def in_place(_, a: tuple[int, int], b: tuple[int, int], **__) -> int:  # torch counts the variant that is not
        return 2 * a[0] * a[1] * b[1]

    problem = planned(loss, 40, 8, "both")
    a, b = (x.float().requires_grad_() for x in random_pairs(problem.batch, problem.dim))
    with FlopCounterMode(display=False, custom_mapping={torch.ops.aten.addmm_: in_place}) as counter:
        loss(a, b, loss.knob(10.0)).backward()
    assert counter.get_total_flops() == sum(p.operations for p in operations.single(problem))


def test_without_a_second_pass_the_published_counts() -> None:
    """docs/explanation/design.md: 8 N^2 D for the softmax losses, 6 for the sigmoid, 4 V^2 D and the diagonal for NT-Xent."""
    n, d = 2**20, 1024
    units = {
        name: sum(p.operations for p in operations.single(Problem(name, n, d, device="cuda"))) / (n * n * d)
        for name in ("clip", "info_nce", "siglip", "nt_xent")
    }
    assert units == pytest.approx({"clip": 8, "info_nce": 8, "siglip": 6, "nt_xent": 16}, rel=2e-3)
