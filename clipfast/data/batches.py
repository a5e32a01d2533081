"""From records to batches of tensors: the work of a worker process."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, NamedTuple, Protocol

import torch
from torch import Tensor

from clipfast.data.order import seed_of
from clipfast.data.records import Example, Record, Records, Skipped
from clipfast.images.pictures import UnreadableError, read_picture

Tokenize = Callable[[list[str]], Tensor]


class PairBatch(NamedTuple):
    """``images`` float32 (B, 3, size, size), ``tokens`` integers (B, L), and the pairs that were left out."""

    images: Tensor
    tokens: Tensor
    skipped: tuple[Skipped, ...] = ()


class PictureBatch(NamedTuple):
    """``images`` float32 (B, 3, size, size), the captions of each, and the pictures that were left out."""

    images: Tensor
    captions: tuple[tuple[str, ...], ...]
    skipped: tuple[Skipped, ...] = ()


class BatchMaker(Protocol):
    """Turns records into a batch."""

    def item(self, record: Record, *numbers: int) -> tuple[Tensor, Any]:
        """A picture (3, size, size) and what belongs to it. ``numbers`` identify the record, and seed its augmentation."""

    def batch(self, images: Tensor, rest: tuple[Any, ...], skipped: tuple[Skipped, ...]) -> Any:
        """``images`` (B, 3, size, size), with B = 0 if nothing could be read."""


@dataclass(frozen=True)
class PairMaker:
    """Pairs to train on: the augmented picture, and one of its captions as ids (L,)."""

    transform: Callable[[Any], Tensor]
    tokenize: Tokenize

    def item(self, record: Record, *numbers: int) -> tuple[Tensor, Tensor]:
        seed = seed_of(*numbers)
        with _seeded(seed):
            image = _picture(record, self.transform)
        return image, _ids(record.captions[seed % len(record.captions)], self.tokenize)

    def batch(self, images: Tensor, rest: tuple[Tensor, ...], skipped: tuple[Skipped, ...]) -> PairBatch:
        return PairBatch(images, torch.stack(rest) if rest else torch.empty(0, 0, dtype=torch.int64), skipped)


@dataclass(frozen=True)
class PictureMaker:
    """Pictures to evaluate on, each with all its captions."""

    transform: Callable[[Any], Tensor]

    def item(self, record: Record, *numbers: int) -> tuple[Tensor, tuple[str, ...]]:
        return _picture(record, self.transform), record.captions

    def batch(self, images: Tensor, rest: tuple[tuple[str, ...], ...], skipped: tuple[Skipped, ...]) -> PictureBatch:
        return PictureBatch(images, rest, skipped)


def _picture(record: Record, transform: Callable[[Any], Tensor]) -> Tensor:
    try:
        return read_picture(record.image, transform)
    except UnreadableError as error:
        if isinstance(record.image, bytes):
            raise
        raise UnreadableError(f"{record.image}: {error}") from error


def _ids(caption: str, tokenize: Tokenize) -> Tensor:
    """Ids (L,). ``UnreadableError`` for a text that is too long for the tokenizer, unless the tokenizer cuts it."""
    try:
        return tokenize([caption])[0]
    except (RuntimeError, ValueError) as error:
        raise UnreadableError(f"the caption cannot be tokenized: {error}") from error


def make_batch(maker: BatchMaker, examples: Iterator[Example | Skipped], *numbers: int) -> Any:
    """A batch of ``examples``, each identified by ``numbers`` and its place."""
    items, skipped = [], []
    for example in examples:
        if isinstance(example, Skipped):
            skipped.append(example)
            continue
        try:
            items.append(maker.item(example.record, *numbers, example.place))
        except UnreadableError as error:
            skipped.append(_skipped(example.where, error))
    images, rest = zip(*items, strict=True) if items else ((), ())
    return maker.batch(torch.stack(images) if items else torch.empty(0), rest, tuple(skipped))


def _skipped(where: str, error: UnreadableError) -> Skipped:
    """``error`` at ``where``, which is not repeated if the error's message begins with it."""
    return Skipped(where, str(error).removeprefix(f"{where}: "))


@dataclass(frozen=True)
class BatchesOfRecords:
    """A data set for ``DataLoader`` whose keys are (epoch, indices of one batch) and whose items are whole batches."""

    records: Records
    maker: BatchMaker
    seed: int = 0

    def __getitem__(self, key: tuple[int, Sequence[int]]) -> Any:
        epoch, indices = key
        return make_batch(self.maker, map(self._example, map(int, indices)), self.seed, epoch)

    def _example(self, index: int) -> Example | Skipped:
        where = self.records.where(index)
        try:
            return Example(index, where, self.records.read(index))
        except UnreadableError as error:
            return _skipped(where, error)


@contextmanager
def _seeded(seed: int) -> Iterator[None]:
    """Seed torch's CPU generator, and restore its state at the end. The GPUs' generators are left alone."""
    generator = torch.default_generator
    state = generator.get_state()
    generator.manual_seed(seed)
    try:
        yield
    finally:
        generator.set_state(state)
