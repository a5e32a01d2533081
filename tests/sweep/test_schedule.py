"""The schedule alone, and sweeps that are given one: how the matrix is cut, what is kept, and that nothing else decides it."""

from __future__ import annotations

import itertools
import threading
from contextlib import nullcontext

import pytest
import torch
from helpers import SOFTMAX_LOSSES, SWEEPS, Loss, error, exact, random_pairs

from clipfast.common.limits import Limits, limits, using
from clipfast.compute.registry import backend as backend_named
from clipfast.distributed.exchange import Alone
from clipfast.losses import clip
from clipfast.operators.calls import sweep_of
from clipfast.operators.record import Inputs, Options
from clipfast.operators.registration import ops
from clipfast.sweep import softmax_passes
from clipfast.sweep.gradient_sums import Wanted
from clipfast.sweep.lines import CROSS_ENTROPY
from clipfast.sweep.schedule import Budget, Extent, Schedule
from clipfast.sweep.softmax_passes import Upstream

BUDGET = Budget(None, 4, 64)
EXTENTS = {
    "square": Extent(2100, (2100,)),
    "rectangle": Extent(70, (1500,)),
    "one row": Extent(1, (1,)),
    "blocks": Extent(900, (900, 1300, 5), alone=False),
    "triangle": Extent(1800, (1800,), symmetric=True),
    "views of several ranks": Extent(600, (600, 600), symmetric=True, alone=False),
}
each_extent = pytest.mark.parametrize("extent", EXTENTS.values(), ids=EXTENTS.keys())


def every_tile(schedule: Schedule) -> list:
    return [tile for block in range(len(schedule.extent.blocks)) for tile in schedule.tiles(block)]


@each_extent
@pytest.mark.parametrize("kept", [0, 500_000, 10**8])
def test_every_pair_is_in_one_tile_and_slots_do_not_overlap(extent: Extent, kept: int) -> None:
    schedule = Schedule.of(extent, BUDGET, kept)
    for block, columns in enumerate(extent.blocks):
        visits = torch.zeros(extent.rows, columns, dtype=torch.int32)
        for tile in schedule.tiles(block):
            visits[tile.rows, tile.cols] += 1
            if extent.triangle and not tile.on_diagonal:
                visits.t()[tile.rows, tile.cols] += 1
        assert torch.all(visits == 1)
    slots = [(tile.slot, tile.area) for tile in every_tile(schedule) if tile.slot is not None]
    assert all(start + area == following for (start, area), (following, _) in itertools.pairwise(slots))
    assert sum(area for _, area in slots) == schedule.found <= kept
    assert all(tile.area <= schedule.largest for tile in every_tile(schedule))


@each_extent
def test_strips_hold_all_exponentials_of_their_rows(extent: Extent) -> None:
    room = 200 * extent.columns
    with using(kept_logits=room):
        schedule = Schedule.for_mean(extent, BUDGET, one_sided=True, second_pass=True)
    possible = extent.alone and not extent.symmetric and room < extent.rows * extent.columns
    assert schedule.by_strips == possible
    if possible:
        assert schedule.height == 200
        for _, strip in itertools.groupby(schedule.tiles(0), key=lambda tile: tile.row0):
            assert sum(tile.area for tile in strip) <= room
        assert schedule.found == schedule.swept
        assert not schedule.in_passes().by_strips


def test_limits_are_in_force_inside_and_not_outside() -> None:
    before = limits()
    with using(tile_side=128):
        assert BUDGET.side == 128
        with pytest.raises(RuntimeError), using(tile_side=64):
            raise RuntimeError
        assert BUDGET.side == 128
    assert limits() == before
    assert BUDGET.side == 1024


@pytest.mark.parametrize("backend", SWEEPS)
@pytest.mark.parametrize(("side", "height", "kept"), [(7, 5, 0), (64, 9, 100), (5, 33, 10**4), (40, 40, 300)])
def test_a_sweep_executes_the_schedule_it_is_given(side: int, height: int, kept: int, backend: str) -> None:
    a, b = (x.float() for x in random_pairs(33, 8))
    scale = torch.tensor(5.0)
    schedule = Schedule(Extent(33, (33,)), side, height, kept, exact_side=8)
    options = Options(False, False, [True, True, True, False], None, backend, "", "auto")
    inputs = Inputs(a, b, scale, None, None)
    sweep = sweep_of(inputs, options, True, Alone(33, 33), lambda extent, budget: schedule, backend_named(backend))
    memory = sweep.kept()
    assert memory.numel() == kept
    lines = softmax_passes.forward(sweep, CROSS_ENTROPY, memory, maxima=False)
    wide = [x.double().requires_grad_() for x in (a, b)]
    want = clip.dense(5.0 * wide[0] @ wide[1].t(), None)
    assert error(lines.loss, want.detach()) < 1e-6
    upstream = Upstream(torch.ones(66, dtype=torch.float64), lines.loss, lines.lse, lines.shift_log2, memory)
    found = softmax_passes.backward(
        sweep, CROSS_ENTROPY, upstream, Wanted(True, True, True), overwrite=False, dtype=torch.float32
    )
    for got, expected in zip(found[:2], torch.autograd.grad(want.sum(), wide), strict=True):
        assert error(got, expected) < 1e-5


@pytest.mark.parametrize("backend", SWEEPS)
def test_strips_give_way_where_the_largest_negatives_are_wanted(backend: str) -> None:
    a, b = (x.float().requires_grad_() for x in random_pairs(300, 8))
    options = Options(False, True, [True, True, True, False], None, backend, "", "auto")
    with using(tile_side=64, smallest_side=64, kept_logits=20_000):
        *_, state = ops.info_nce_mean(a, b, torch.tensor(5.0), None, None, *options)
    z = 5.0 * a.detach().double() @ b.detach().double().t()
    assert error(state[2], z.fill_diagonal_(-torch.inf).amax(1)) < 1e-6


def test_contexts_of_several_threads_overlap_in_any_order() -> None:
    entered, leave = threading.Event(), threading.Event()

    def other() -> None:
        with using(tile_side=128):
            entered.set()
            leave.wait()

    thread = threading.Thread(target=other)
    thread.start()
    entered.wait()
    with using(smallest_side=32):
        assert (limits().tile_side, limits().smallest_side) == (128, 32)
        leave.set()
        thread.join()
        assert (limits().tile_side, limits().smallest_side) == (1024, 32)
    assert limits() == Limits()


@pytest.mark.parametrize("loss", SOFTMAX_LOSSES, ids=lambda loss: loss.name)
@pytest.mark.parametrize("inside", ["forward", "backward"])
def test_the_backward_call_finds_the_tiles_of_the_forward_one(loss: Loss, inside: str) -> None:
    """Whatever limits are in force by then: the kept exponentials lie where the forward call put them."""
    a, b = (x.float().requires_grad_() for x in random_pairs(450, 8))
    with using(tile_side=128) if inside == "forward" else nullcontext():
        value = loss(a, b, loss.knob(5.0), reduction="sum")
    with using(tile_side=128) if inside == "backward" else nullcontext():
        value.backward()
    want = exact(loss, a, b, 5.0, reduction="sum")
    assert error(a.grad, want.grads["a"]) < 1e-5
    assert error(b.grad, want.grads["b"]) < 1e-5
