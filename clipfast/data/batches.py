"""Batches of tensors from records: what a worker process does."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.utils.data import DataLoader

from clipfast.data.order import seed_of
from clipfast.data.records import NothingReadableError, Record, Records, Skipped, UnreadableError, read_picture

Tokenize = Callable[[list[str]], Tensor]


class PairBatch(NamedTuple):
    """``images`` float32 (B, 3, size, size), ``tokens`` integers (B, L), and the pairs that were left out of them."""

    images: Tensor
    tokens: Tensor
    skipped: tuple[Skipped, ...] = ()


@dataclass(frozen=True)
class PairMaker:
    """Records to tensors; what is random depends on the numbers that name the pair, and on nothing else."""

    transform: Callable[[Any], Tensor]
    tokenize: Tokenize

    def pair(self, record: Record, *numbers: int) -> tuple[Tensor, Tensor]:
        """The picture (3, size, size) and the ids (L,) of one of its captions. ``UnreadableError`` if there is none."""
        seed = seed_of(*numbers)
        caption = record.captions[seed % len(record.captions)]
        with _seeded(seed):
            image = read_picture(record.image, self.transform)
        try:
            return image, self.tokenize([caption])[0]
        except (RuntimeError, ValueError) as error:  # a text that is too long, for a tokenizer that does not cut it
            raise UnreadableError(f"the caption cannot be tokenized: {error}") from error


def collated(pairs: Iterator[tuple[Tensor, Tensor] | Skipped]) -> PairBatch:
    found = list(pairs)
    skipped = tuple(item for item in found if isinstance(item, Skipped))
    read = [item for item in found if not isinstance(item, Skipped)]
    if not read:
        return PairBatch(torch.empty(0), torch.empty(0, dtype=torch.int64), skipped)
    images, tokens = zip(*read, strict=True)
    return PairBatch(torch.stack(images), torch.stack(tokens), skipped)


@dataclass(frozen=True)
class BatchesOfRecords:
    """What ``DataLoader`` calls a data set: its keys are (epoch, indices of one batch), its items whole batches."""

    records: Records
    maker: PairMaker
    seed: int

    def __getitem__(self, key: tuple[int, Sequence[int]]) -> PairBatch:
        epoch, indices = key
        return collated(self._pair(epoch, int(index)) for index in indices)

    def _pair(self, epoch: int, index: int) -> tuple[Tensor, Tensor] | Skipped:
        try:
            return self.maker.pair(self.records.read(index), self.seed, epoch, index)
        except UnreadableError as error:
            return Skipped(self.records.where(index), str(error))


@contextmanager
def _seeded(seed: int) -> Iterator[None]:
    """torch's generator of the CPU at ``seed``, and then as it was; those of the GPUs are left alone."""
    generator = torch.default_generator
    state = generator.get_state()
    generator.manual_seed(seed)
    try:
        yield
    finally:
        generator.set_state(state)


def checked(batch: PairBatch) -> PairBatch:
    """The batch, if it has a pair."""
    if not len(batch.images):
        first = batch.skipped[0]
        raise NothingReadableError(f"none of a batch's {len(batch.skipped)} pairs can be read; {first.where}: {first.why}")
    return batch


def batch_loader(dataset: Any, *, workers: int, keys: Iterable[Any] | None = None, persistent: bool = False) -> DataLoader[Any]:
    """A loader whose items are whole batches; in the order of ``keys``, or of the data set itself."""
    return DataLoader(
        dataset,
        batch_size=None,
        sampler=keys,
        num_workers=workers,
        collate_fn=_same,
        persistent_workers=persistent and workers > 0,
        pin_memory=torch.cuda.is_available(),
    )


def _same(batch: Any) -> Any:
    return batch
