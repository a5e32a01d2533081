"""Training's pairs: batches in an order that the seed and the epoch determine, divided among the processes."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from functools import partial
from typing import Protocol

import numpy as np

from clipfast.common.argument_checks import check_whole_number
from clipfast.data.batches import BatchesOfRecords, PairBatch, PairMaker, Tokenize
from clipfast.data.data_config import DataConfig
from clipfast.data.data_sources import is_shards, open_records
from clipfast.data.loader import batch_loader
from clipfast.data.order import epoch_order, whole_batches
from clipfast.data.records import NothingReadableError
from clipfast.data.shard_batches import stream_batches
from clipfast.data.shards import Shards, Stream
from clipfast.images.preprocess import Preprocess


class PairData(Protocol):
    """``steps`` batches in each epoch, the same number in every process."""

    steps: int

    def epoch(self, epoch: int, first: int = 0) -> Iterator[PairBatch]:
        """The batches of an epoch from number ``first`` on; what they hold does not depend on ``first``. Only one epoch can be
        read at a time: a call ends the iterator of an earlier call."""


def open_pairs(
    config: DataConfig,
    transform: Preprocess,
    tokenize: Tokenize,
    *,
    batch_size: int,
    seed: int,
    rank: int = 0,
    world_size: int = 1,
) -> PairData:
    """The pairs of ``config`` for process ``rank`` of ``world_size``, ``batch_size`` of them in each of its batches.

    ``transform`` is the model's preprocessing for evaluation, whose size and colours the augmentation uses. ``tokenize``
    makes ids (n, L) of n captions; worker processes call it, so it must be picklable where they are not forked.
    Raises ValueError and FileNotFoundError for data that cannot be served, and ``NothingReadableError`` at a batch without a
    readable pair.
    """
    _check_processes(batch_size, seed, rank, world_size)
    maker = PairMaker(config.training_transform(transform), tokenize)
    kind = ShardPairs if is_shards(config) else RecordPairs
    return kind(config, maker, batch_size, seed, rank, world_size)


class RecordPairs:
    """``PairData`` of a table or of class folders, which can be read in any order."""

    def __init__(self, config: DataConfig, maker: PairMaker, batch_size: int, seed: int, rank: int, world_size: int) -> None:
        records = open_records(config)
        self._groups = None if config.distinct is None else records.groups(config.distinct)
        self._count, self._size, self._seed = len(records), batch_size * world_size, seed
        self._mine = slice(rank * batch_size, (rank + 1) * batch_size)
        self.steps = self._whole_batches(config)
        self._keys = _Keys()
        self._loader = batch_loader(BatchesOfRecords(records, maker, seed), self._keys, config.workers, persistent=True)

    def epoch(self, epoch: int, first: int = 0) -> Iterator[PairBatch]:
        order = epoch_order(self._count, self.steps, self._size, self._groups, self._seed, epoch)
        self._keys.replace([(epoch, batch[self._mine]) for batch in order[first:]])
        return map(_readable, self._loader)

    def _whole_batches(self, config: DataConfig) -> int:
        steps = whole_batches(self._count, self._size, self._groups)
        wanted = steps if config.samples is None else config.samples // self._size
        if not 1 <= wanted <= steps:
            limit = "" if config.distinct is None else f", none with two pairs of one {config.distinct!r}"
            asked = "" if config.samples is None else f"; samples={config.samples} asks for {wanted}"
            raise ValueError(
                f"{config.source} must have the pairs of an epoch, one batch or more; got {self._count} pairs, enough for "
                f"{steps} batches of {self._size}{limit}{asked}; take a smaller batch" + (" or other samples" if asked else "")
            )
        return wanted


class _Keys:
    """The sampler of a loader that serves all epochs: the keys of the latest epoch."""

    current: Sequence[tuple[int, np.ndarray]] = ()

    def __iter__(self) -> Iterator[tuple[int, np.ndarray]]:
        return iter(self.current)

    def replace(self, keys: Sequence[tuple[int, np.ndarray]]) -> None:
        """What the next iteration goes over."""
        self.current = keys


class ShardPairs:
    """``PairData`` of tar shards, divided among the processes anew in each epoch; each process reads its own."""

    def __init__(self, config: DataConfig, maker: PairMaker, batch_size: int, seed: int, rank: int, world_size: int) -> None:
        if config.samples is None:
            raise ValueError("samples must be given for tar shards, as the number of pairs in an epoch; got None")
        config.refuse("the values in tar shards are not known before they are read", "distinct")
        shards = Shards(config)
        if len(shards.urls) < world_size:
            raise ValueError(
                f"{config.source} must have a shard for each of the {world_size} processes; got {len(shards.urls)}"
            )
        self.steps = config.samples // (batch_size * world_size)
        if not self.steps:
            raise ValueError(
                f"samples must be at least {batch_size * world_size}, a batch of all processes; got {config.samples}"
            )
        self._stream = Stream(shards, config.shuffle, seed, rank, world_size)
        self._maker, self._batch_size, self._workers = maker, batch_size, config.workers

    def epoch(self, epoch: int, first: int = 0) -> Iterator[PairBatch]:
        stream, samples = self._stream, partial(self._stream.epoch, epoch, self.steps * self._batch_size)
        numbers = stream.seed, epoch, stream.rank
        return map(_readable, stream_batches(samples, self._batch_size, first, self._maker, self._workers, *numbers))


def _readable(batch: PairBatch) -> PairBatch:
    """``batch``; ``NothingReadableError`` if all its pairs were left out."""
    if not len(batch.images):
        first = batch.skipped[0]
        raise NothingReadableError(f"none of a batch's {len(batch.skipped)} pairs can be read; {first.where}: {first.why}")
    return batch


def _check_processes(batch_size: int, seed: int, rank: int, world_size: int) -> None:
    for name, value, least in (("batch_size", batch_size, 1), ("seed", seed, 0), ("world_size", world_size, 1)):
        check_whole_number(name, value, least)
    if not 0 <= rank < world_size:
        raise ValueError(f"rank must be in [0, {world_size}), the processes; got {rank!r}")
