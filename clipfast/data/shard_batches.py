"""Batches from a stream of samples: one process reads the stream, the workers decode pictures.

So the order is the stream's for any number of workers, and each shard is read once.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from itertools import islice
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import IterableDataset

from clipfast.data.batches import BatchMaker, make_batch
from clipfast.data.loader import batch_loader
from clipfast.data.records import Example, Record, Skipped
from clipfast.data.shards import Sample

Samples = Callable[[], Iterator[Sample | Skipped]]


def stream_batches(
    samples: Samples, batch_size: int, first: int, maker: BatchMaker, workers: int, *numbers: int
) -> Iterator[Any]:
    """Batches from number ``first`` on, the last one perhaps smaller. ``numbers`` identify the stream to ``maker``.

    Earlier samples are read, as a tar file has no index, but not decoded. Unless ``workers`` is 0, ``samples`` and ``maker``
    must be picklable where processes are not forked.
    """
    reading = batch_loader(_Reading(samples, batch_size, first), None, min(1, workers), pin=False)
    return iter(batch_loader(_Decoding(maker, numbers), reading, workers))


class Packed(NamedTuple):
    """A batch before decoding: the bytes of all pictures in one uint8 tensor, which processes pass on without a copy."""

    place: int
    data: Tensor
    sizes: tuple[int, ...]
    samples: tuple[tuple[str, tuple[str, ...]] | Skipped, ...]

    @classmethod
    def of(cls, place: int, samples: list[Sample | Skipped]) -> Packed:
        """``place`` is that of the first sample."""
        pictures = [sample.picture if isinstance(sample, Sample) else b"" for sample in samples]
        named = (sample if isinstance(sample, Skipped) else (sample.where, sample.captions) for sample in samples)
        data = torch.from_numpy(np.frombuffer(bytearray(b"".join(pictures)), np.uint8))
        return cls(place, data, tuple(map(len, pictures)), tuple(named))

    def examples(self) -> Iterator[Example | Skipped]:
        pictures = self.data.split(self.sizes)
        for place, (picture, sample) in enumerate(zip(pictures, self.samples, strict=True), self.place):
            if isinstance(sample, Skipped):
                yield sample
            else:
                yield Example(place, sample[0], Record(picture.numpy().tobytes(), sample[1]))


@dataclass(frozen=True)
class _Reading(IterableDataset[Packed]):
    samples: Samples
    batch_size: int
    first: int

    def __iter__(self) -> Iterator[Packed]:
        samples, place = self.samples(), self.first * self.batch_size
        next(islice(samples, place, place), None)
        while batch := list(islice(samples, self.batch_size)):
            yield Packed.of(place, batch)
            place += len(batch)


@dataclass(frozen=True)
class _Decoding:
    maker: BatchMaker
    numbers: tuple[int, ...]

    def __getitem__(self, packed: Packed) -> Any:
        return make_batch(self.maker, packed.examples(), *self.numbers)
