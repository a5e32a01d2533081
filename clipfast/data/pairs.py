"""Training's pairs: batches in an order that the seed and the epoch determine, dealt to the processes."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from functools import partial
from pathlib import Path
from typing import Protocol

import numpy as np

from clipfast.data.batches import BatchesOfRecords, PairBatch, PairMaker, Tokenize
from clipfast.data.data_config import DataConfig
from clipfast.data.folder import ClassFolders
from clipfast.data.loader import batch_loader
from clipfast.data.order import epoch_order, whole_batches
from clipfast.data.records import Grouped, NothingReadableError
from clipfast.data.shard_batches import stream_batches
from clipfast.data.shards import Shards, Stream
from clipfast.data.table import ROWS, Table
from clipfast.images.preprocess import Preprocess


class PairData(Protocol):
    """``steps`` batches an epoch, as many in every process."""

    steps: int

    def epoch(self, epoch: int, first: int = 0) -> Iterator[PairBatch]:
        """Batches ``first`` to the last of that epoch; what they hold does not depend on ``first``. One epoch at a time: with
        workers, a call ends what an earlier one gave."""


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

    ``transform`` is the model's preprocessing for evaluation, whose size and colours the augmentation takes. ``tokenize``
    makes ids (n, L) of n captions; it goes to worker processes, so it must be picklable where they are not forked.
    Raises ValueError and FileNotFoundError for what cannot be served, and ``NothingReadableError`` at a batch of which nothing
    can be read.
    """
    _check_processes(batch_size, seed, rank, world_size)
    maker = PairMaker(config.training_transform(transform), tokenize)
    kind = ShardPairs if is_shards(config) else RecordPairs
    return kind(config, maker, batch_size, seed, rank, world_size)


def is_shards(config: DataConfig) -> bool:
    path = Path(config.source)
    return ".tar" in config.source and path.suffix.lower() not in ROWS and not path.is_dir()


def open_records(config: DataConfig) -> Grouped:
    """What a table or class folders hold."""
    path = Path(config.source)
    if not path.exists():
        raise FileNotFoundError(f"there is no file or folder {config.source}")
    if path.suffix.lower() in ROWS:
        return Table(config)
    if path.is_dir():
        return ClassFolders(config)
    raise ValueError(f"{config.source} is no table ({', '.join(ROWS)}), no folder with class folders, and no tar shards (.tar)")


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
        self._keys.current = [(epoch, batch[self._mine]) for batch in order[first:]]
        return map(_checked, self._loader)

    def _whole_batches(self, config: DataConfig) -> int:
        steps = whole_batches(self._count, self._size, self._groups)
        wanted = steps if config.samples is None else config.samples // self._size
        if not 1 <= wanted <= steps:
            limit = "" if config.distinct is None else f", none with two pairs of one {config.distinct!r}"
            asked = "" if config.samples is None else f"; samples={config.samples} asks for {wanted}"
            raise ValueError(
                f"{config.source} has {self._count} pairs, enough for {steps} batches of {self._size}{limit}{asked}; "
                "an epoch needs one or more: take a smaller batch" + (" or other samples" if asked else "")
            )
        return wanted


class _Keys:
    """The keys of the epoch that was asked for last: the workers outlive an epoch, and their loader has one sampler."""

    current: Sequence[tuple[int, np.ndarray]] = ()

    def __iter__(self) -> Iterator[tuple[int, np.ndarray]]:
        return iter(self.current)


class ShardPairs:
    """``PairData`` of tar shards: the processes share them out anew in each epoch, and each reads its own."""

    def __init__(self, config: DataConfig, maker: PairMaker, batch_size: int, seed: int, rank: int, world_size: int) -> None:
        if config.samples is None:
            raise ValueError(f"{config.source}: tar shards are not counted; say how many pairs an epoch has (samples)")
        config.refuse("what is in tar shards is not known before they are read", "distinct")
        shards = Shards(config)
        if len(shards.urls) < world_size:
            raise ValueError(f"{config.source}: {len(shards.urls)} shards for {world_size} processes; each needs one or more")
        self.steps = config.samples // (batch_size * world_size)
        if not self.steps:
            raise ValueError(f"samples={config.samples} is less than a batch of {batch_size * world_size} over all processes")
        self._stream = Stream(shards, config.shuffle, seed, rank, world_size)
        self._maker, self._batch_size, self._workers = maker, batch_size, config.workers

    def epoch(self, epoch: int, first: int = 0) -> Iterator[PairBatch]:
        stream, samples = self._stream, partial(self._stream.epoch, epoch, self.steps * self._batch_size)
        numbers = stream.seed, epoch, stream.rank
        return map(_checked, stream_batches(samples, self._batch_size, first, self._maker, self._workers, *numbers))


def _checked(batch: PairBatch) -> PairBatch:
    if not len(batch.images):
        first = batch.skipped[0]
        raise NothingReadableError(f"none of a batch's {len(batch.skipped)} pairs can be read; {first.where}: {first.why}")
    return batch


def _check_processes(batch_size: int, seed: int, rank: int, world_size: int) -> None:
    for name, value, least in (("batch_size", batch_size, 1), ("seed", seed, 0), ("world_size", world_size, 1)):
        if isinstance(value, bool) or not isinstance(value, int) or value < least:
            raise ValueError(f"{name} must be a whole number, at least {least}; got {value!r}")
    if not 0 <= rank < world_size:
        raise ValueError(f"rank must be in [0, {world_size}), as there are {world_size} processes; got {rank!r}")
