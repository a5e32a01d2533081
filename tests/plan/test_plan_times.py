"""The model of time: against a schedule played step by step, and against what must hold at its ends."""

from __future__ import annotations

from dataclasses import replace

import pytest

from clipfast.losses.declaration import LOSSES, named
from clipfast.plan import bytes_sent, operations, times
from clipfast.plan.machine import Machine
from clipfast.plan.problem import Problem
from clipfast.plan.strategies import chosen, fastest, plans

H200 = Machine()


def played(ranks: int, block: float, inputs: float, outputs: float) -> float:
    """Seconds of one pass of ``clipfast.distributed.ring``, by a clock for the processor and one for the link."""
    now = link = arrival = behind = 0.0
    for step in range(ranks):
        now = max(now, arrival)  # this block's inputs
        if step + 1 < ranks:
            link = arrival = max(now, link) + inputs
        if step > 0:
            link = behind = max(now, link) + outputs
        now += block
        now = max(now, behind)  # what the previous ranks left for this block
    return max(now, link) + outputs


@pytest.mark.parametrize("ranks", [2, 3, 8, 64])
@pytest.mark.parametrize(("inputs", "outputs"), [(0.1, 0.1), (0.5, 0.9), (2.0, 0.1), (0.1, 2.0), (3.0, 2.0), (0.4, 0.0)])
def test_a_pass_of_the_ring_is_the_schedule_played(ranks: int, inputs: float, outputs: float) -> None:
    block = 1.0
    assert ranks * block + times.ring_exposed(ranks, block, inputs, outputs) == pytest.approx(
        played(ranks, block, inputs, outputs)
    )


@pytest.mark.parametrize("loss", LOSSES)
def test_without_links_and_overheads_ranks_divide_the_work(loss: str) -> None:
    """Time is then operations over rate. The one difference: of a symmetric loss, one process computes a triangle alone."""
    free = replace(H200, node_gb_s=1e12, node_us=0, network_gb_s=1e12, network_us=0, tile_us=0, copy_gb_s=1e12, sweep_share=1.0)
    problem = Problem(loss, 2**20, 512, ranks=64)
    single, gather, ring = plans(problem, free)
    for plan in (gather, ring):
        assert plan.times.step == pytest.approx(plan.operations / 780e12, rel=1e-6)
        assert plan.operations == pytest.approx(single.operations / 64 * (1.5 if named(loss).symmetric else 1), rel=2e-3)


def test_the_ring_hides_its_transfers_behind_large_blocks_only() -> None:
    overlaps = [plans(Problem("clip", 64 * n, 1024, ranks=64), H200)[2].times.overlap for n in (512, 4096, 65_536)]
    assert overlaps == sorted(overlaps)
    assert overlaps[0] < 0.5
    assert overlaps[-1] > 0.99


def test_gathering_hides_nothing_and_takes_every_network_card() -> None:
    problem = Problem("clip", 2**20, 1024, ranks=256)
    gather = plans(problem, H200)[1].times
    assert gather.exposed == gather.transfer
    gathered = sum(2**20 * sum(p.inputs + p.outputs) for p in bytes_sent.column_bytes(problem))
    by_the_cards = gathered * 31 / 32 / (8 * 40e9)
    assert by_the_cards < gather.transfer < 1.25 * by_the_cards


def test_a_ring_within_a_node_is_as_fast_as_its_links() -> None:
    problem = Problem("siglip", 8 * 16, 1024, ranks=8)  # next to no arithmetic
    one = bytes_sent.column_bytes(problem)[0]
    slow = replace(H200, node_gb_s=1e-3, node_us=0)
    expected = 16 * (7 * sum(one.inputs) + 8 * sum(one.outputs)) / 1e6
    assert times.ring(problem, slow, operations.grouped(problem, 0, (16,) * 8)).step == pytest.approx(expected, rel=0.01)


def test_what_does_not_fit_is_not_the_fastest() -> None:
    problem = Problem("clip", 2**24, 1024, ranks=2048)
    found = plans(problem, replace(H200, memory_gib=10))
    assert [plan.fits for plan in found] == [False, False, True]
    best = fastest(found)
    assert best is not None
    assert best.strategy == "ring"
    assert fastest(plans(problem, replace(H200, memory_gib=0.1))) is None


def test_the_strategy_that_auto_takes() -> None:
    names = [chosen(Problem("clip", n, 1024, ranks=ranks)) for n, ranks in ((4096, 1), (2**14, 8), (2**20, 8))]
    assert names == ["single", "gather", "ring"]


def test_the_problem_and_the_machine_must_agree() -> None:
    with pytest.raises(ValueError, match="the machine's device must be the problem's, 'cpu'; got 'cuda'"):
        plans(Problem("clip", 64, 8, device="cpu"), H200)
