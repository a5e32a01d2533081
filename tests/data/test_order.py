"""Orders of an epoch: each pair at most once, a group at most once in a batch, the same order for the same numbers."""

from __future__ import annotations

from itertools import pairwise

import numpy as np
import pytest

from clipfast.data.order import epoch_order, seed_of, whole_batches


def test_every_pair_comes_at_most_once_and_the_remainder_differs():
    orders = [epoch_order(103, 10, 10, None, seed=1, epoch=epoch) for epoch in range(40)]
    assert all(order.shape == (10, 10) and len(np.unique(order)) == 100 for order in orders)
    left = {tuple(np.setdiff1d(np.arange(103), order)) for order in orders}
    assert len(left) > 30
    assert len(np.unique(np.concatenate(orders))) == 103


def test_orders_depend_on_seed_and_epoch_alone():
    first = epoch_order(50, 5, 10, None, seed=1, epoch=2)
    assert np.array_equal(first, epoch_order(50, 5, 10, None, seed=1, epoch=2))
    others = [epoch_order(50, 5, 10, None, seed, epoch) for seed, epoch in ((1, 3), (2, 2), (2, 1))]
    assert all(not np.array_equal(left, right) for left, right in pairwise([first, *others]))


GROUPS = {
    "equal": np.repeat(np.arange(20), 3),
    "unequal": np.repeat(np.arange(12), [40, 9, 1, 1, 5, 5, 5, 2, 3, 11, 13, 1]),
    "each its own": np.arange(57),
    "numbers that are not used": np.array([5, 5, 9, 0, 0, 9, 3, 3, 7]),
}


@pytest.mark.parametrize("name", GROUPS)
@pytest.mark.parametrize("size", [1, 3, 4])
def test_no_group_comes_twice_in_a_batch(name: str, size: int):
    groups = GROUPS[name]
    steps = whole_batches(len(groups), size, groups)
    assert steps > 0
    for epoch in range(20):
        order = epoch_order(len(groups), steps, size, groups, seed=0, epoch=epoch)
        assert order.shape == (steps, size)
        assert len(np.unique(order)) == steps * size
        assert all(len(np.unique(groups[batch])) == size for batch in order)


def most_batches(sizes: list[int], size: int) -> int:
    """Dealing each batch from the largest groups: no way of dealing gives more batches."""
    left, steps = sorted(sizes, reverse=True), 0
    while len(left) >= size and left[size - 1] > 0:
        left = sorted([n - 1 for n in left[:size]] + left[size:], reverse=True)
        steps += 1
    return steps


@pytest.mark.parametrize("size", [1, 2, 3, 5, 8])
def test_there_are_as_many_batches_as_can_be(size: int):
    chance = np.random.default_rng(size)
    for _ in range(100):
        sizes = chance.integers(1, 9, chance.integers(1, 15)).tolist()
        groups = np.repeat(np.arange(len(sizes)), sizes)
        assert whole_batches(len(groups), size, groups) == most_batches(sizes, size)
    assert whole_batches(103, size, None) == 103 // size


def test_every_pair_of_a_large_group_has_its_turn():
    groups = np.repeat([0, 1, 2], [30, 2, 2])
    found = [epoch_order(34, 2, 3, groups, seed=0, epoch=epoch) for epoch in range(200)]
    assert len(np.unique(np.concatenate(found))) == 34


def test_a_short_epoch_takes_some_pairs_of_many_groups():
    groups = np.repeat(np.arange(40), 10)
    assert all(len(np.unique(groups[epoch_order(400, 5, 8, groups, seed=0, epoch=epoch)])) > 15 for epoch in range(10))


def test_seeds_differ_in_every_number():
    seeds = {seed_of(*numbers) for numbers in np.ndindex(6, 6, 6)}
    assert len(seeds) == 6**3
    assert seed_of(1, 2, 3) == seed_of(1, 2, 3)
