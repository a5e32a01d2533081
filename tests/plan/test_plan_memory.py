"""Memory of the plan against the allocations of a step, as torch's profiler sees each of them."""

from __future__ import annotations

import pytest
import torch
from helpers import LOSSES, Loss, random_pairs
from plan_cases import peak_allocated

from clipfast.common.limits import limits
from clipfast.plan import memory
from clipfast.plan.problem import Problem

pytestmark = pytest.mark.usefixtures("one_thread")
each_loss = pytest.mark.parametrize("loss", LOSSES, ids=lambda loss: loss.name)


def measured(loss: Loss, problem: Problem) -> int:
    """Bytes at the peak of a step beside the features, which are there before it."""
    a, b = (
        x.to(getattr(torch, problem.dtype)).requires_grad_(problem.trains) for x in random_pairs(problem.batch, problem.dim)
    )

    def step() -> None:
        value = loss(a, b, loss.knob(10.0), normalize=True, workspace_bytes=problem.workspace_bytes)
        if problem.trains:
            value.backward()

    return peak_allocated(step)


def planned(problem: Problem) -> int:
    parts = memory.single(problem)
    return sum(parts.values()) - parts["features"]


@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize(("n", "d", "workspace"), [(1500, 64, None), (3000, 96, 2**21)])
@each_loss
def test_the_peak_of_a_step(loss: Loss, n: int, d: int, workspace: int | None, dtype: str) -> None:
    problem = Problem(loss.name, n, d, dtype, device="cpu", workspace_bytes=workspace)
    assert 0.85 < measured(loss, problem) / planned(problem) < 1.05


@each_loss
def test_half_precision_is_widened(loss: Loss) -> None:
    """More than is kept for the next call (``reused_bytes``), so that the copies are allocations of the step."""
    n, d = 4096, 320
    assert 2 * n * d * 4 > limits().reused_bytes
    problem = Problem(loss.name, n, d, "bfloat16", device="cpu", workspace_bytes=2**22)
    assert 0.95 < measured(loss, problem) / planned(problem) < 1.05


@each_loss
def test_without_gradients(loss: Loss) -> None:
    problem = Problem(loss.name, 3000, 96, "float32", gradients="none", device="cpu", workspace_bytes=2**21)
    assert 0.95 < measured(loss, problem) / planned(problem) < 1.05


@each_loss
def test_what_grows_with_the_batch(loss: Loss) -> None:
    """From one batch to twice as many, in one workspace: features' copies, gradients and vectors, to a few numbers a pair."""
    small, large = (Problem(loss.name, n, 32, "float32", device="cpu", workspace_bytes=2**20) for n in (2048, 4096))
    growth = measured(loss, large) - measured(loss, small)
    assert growth == pytest.approx(planned(large) - planned(small), abs=2048 * 24)


def test_a_locked_side_saves_its_gradient() -> None:
    both, locked = (Problem("clip", 2048, 256, "float32", gradients=g, device="cpu") for g in ("both", "rows"))
    assert planned(both) - planned(locked) == 2048 * 256 * 4
