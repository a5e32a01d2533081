"""Training's pairs from tar shards: one process reads the stream, others decode its batches.

So the order is the stream's, whatever the number of workers, and each shard is read once.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from itertools import islice
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import IterableDataset

from clipfast.data.batches import PairBatch, PairMaker, batch_loader, checked, collated
from clipfast.data.config import DataConfig
from clipfast.data.records import Record, Skipped, UnreadableError
from clipfast.data.shards import Sample, Shards, Stream


class Packed(NamedTuple):
    """A batch as it was read: the bytes of all pictures in one uint8 tensor, which processes hand over without a copy."""

    first: int
    data: Tensor
    sizes: tuple[int, ...]
    samples: tuple[tuple[str, tuple[str, ...]] | Skipped, ...]

    @classmethod
    def of(cls, first: int, samples: list[Sample | Skipped]) -> Packed:
        """``first`` is the place of the first sample in the epoch."""
        pictures = [sample.picture if isinstance(sample, Sample) else b"" for sample in samples]
        named = (sample if isinstance(sample, Skipped) else (sample.where, sample.captions) for sample in samples)
        data = torch.from_numpy(np.frombuffer(bytearray(b"".join(pictures)), np.uint8))
        return cls(first, data, tuple(map(len, pictures)), tuple(named))

    def records(self) -> Iterator[tuple[int, str, Record] | Skipped]:
        """Place in the epoch, place in the shards, record."""
        pictures = self.data.split(self.sizes)
        for i, (picture, sample) in enumerate(zip(pictures, self.samples, strict=True), self.first):
            if isinstance(sample, Skipped):
                yield sample
            else:
                yield i, sample[0], Record(picture.numpy().tobytes(), sample[1])


@dataclass(frozen=True)
class _Reading(IterableDataset[Packed]):
    stream: Stream
    epoch: int
    batch_size: int
    batches: range

    def __iter__(self) -> Iterator[Packed]:
        samples = self.stream.epoch(self.epoch)
        skipped = self.batches.start * self.batch_size
        next(islice(samples, skipped, skipped), None)  # read, as a tar file has no index, and not decoded
        for batch in self.batches:
            yield Packed.of(batch * self.batch_size, list(islice(samples, self.batch_size)))


@dataclass(frozen=True)
class _Decoding:
    maker: PairMaker
    numbers: tuple[int, ...]

    def __getitem__(self, packed: Packed) -> PairBatch:
        return collated(sample if isinstance(sample, Skipped) else self._pair(*sample) for sample in packed.records())

    def _pair(self, place: int, where: str, record: Record) -> tuple[Tensor, Tensor] | Skipped:
        try:
            return self.maker.pair(record, *self.numbers, place)
        except UnreadableError as error:
            return Skipped(where, str(error))


class ShardPairs:
    """``PairData`` of tar shards; the processes share them out, and each reads its own."""

    def __init__(self, config: DataConfig, maker: PairMaker, batch_size: int, seed: int, rank: int, world_size: int) -> None:
        if config.samples is None:
            raise ValueError(
                f"{config.source} are tar shards, which are not counted: say how many pairs an epoch has (samples)"
            )
        if config.distinct is not None:
            raise ValueError("distinct needs a table or class folders: what is in tar shards is not known before it is read")
        shards = Shards(config)
        if len(shards.urls) < world_size:
            raise ValueError(
                f"{config.source} are {len(shards.urls)} shards for {world_size} processes; each needs one or more"
            )
        self.steps = config.samples // (batch_size * world_size)
        if not self.steps:
            raise ValueError(f"samples={config.samples} is less than a batch of {batch_size * world_size} over all processes")
        self._stream = Stream(shards, config.shuffle, seed, rank, world_size)
        self._maker, self._batch_size, self._workers = maker, batch_size, config.workers

    def epoch(self, epoch: int, first: int = 0) -> Iterator[PairBatch]:
        batches = _Reading(self._stream, epoch, self._batch_size, range(first, self.steps))
        reading = batch_loader(batches, workers=min(1, self._workers))
        decoding = _Decoding(self._maker, (self._stream.seed, epoch, self._stream.rank))
        return map(checked, batch_loader(decoding, workers=self._workers, keys=reading))
