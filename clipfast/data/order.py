"""The order of an epoch, and the seeds of its random numbers: pure functions of the seed, the epoch and the place in it."""

from __future__ import annotations

from hashlib import blake2b

import numpy as np


def seed_of(*numbers: int) -> int:
    """Several numbers hashed to one of 64 bits."""
    return int.from_bytes(blake2b(repr(numbers).encode(), digest_size=8).digest(), "little")


def whole_batches(count: int, size: int, groups: np.ndarray | None) -> int:
    """How many batches of ``size`` can be dealt from ``count`` pairs, if no batch may have two pairs of one group.

    T batches can be dealt if the groups, each cut to T pairs, hold T·size pairs: a batch can use one pair of each group.
    """
    if groups is None:
        return count // size
    sizes = np.bincount(groups)
    low, high = 0, count // size
    while low < high:
        middle = (low + high + 1) // 2
        low, high = (middle, high) if np.minimum(sizes, middle).sum() >= middle * size else (low, middle - 1)
    return low


def epoch_order(count: int, steps: int, size: int, groups: np.ndarray | None, seed: int, epoch: int) -> np.ndarray:
    """(steps, size) int64: the pairs of every batch, none twice. ``steps`` is at most ``whole_batches``.

    The unused remainder of the ``count`` pairs differs each epoch.
    """
    random = np.random.default_rng((seed, epoch))
    order = random.permutation(count)
    if groups is None:
        return order[: steps * size].reshape(steps, size)
    # The groups one after another, in random order, each cut to one pair for each batch.
    labels = random.permutation(groups.max() + 1)[groups[order]]
    together = np.argsort(labels, kind="stable")
    labels = labels[together]
    first = np.searchsorted(labels, labels)
    order = order[together][np.arange(count) - first < steps]
    # As many as are needed, dealt like cards: pairs of one group are neighbours, so they go to different batches.
    kept = np.sort(random.permutation(len(order))[: steps * size])
    return order[kept].reshape(size, steps).T[random.permutation(steps)]
