"""A picture with its captions, from any source, and how one that cannot be read is reported."""

from __future__ import annotations

from typing import NamedTuple, Protocol

import numpy as np

from clipfast.images.pictures import UnreadableError


class Skipped(NamedTuple):
    """A pair that was left out: ``where`` it is (file:line, a picture's path, or shard/key), and ``why``."""

    where: str
    why: str


class NothingReadableError(ValueError):
    """A batch, or a whole source, has no readable pair."""


class Record(NamedTuple):
    """A picture, as a path or as the bytes of its file, and its captions, one of which is drawn in training."""

    image: str | bytes
    captions: tuple[str, ...]


class Example(NamedTuple):
    """A record, its place in the epoch or in the table, and where it is, for messages."""

    place: int
    where: str
    record: Record


class Records(Protocol):
    """Pairs that can be read in any order."""

    def __len__(self) -> int: ...

    def where(self, index: int) -> str: ...

    def read(self, index: int) -> Record:
        """Raises ``UnreadableError``; the picture itself is not opened yet."""


class Grouped(Records, Protocol):
    """Records that can be grouped by a value without reading the pictures."""

    def labels(self) -> list[str]:
        """The class names, sorted, each once."""

    def groups(self, name: str) -> np.ndarray:
        """(len,) int64: the same number where ``name`` (a column, or "class") has the same value."""


def checked_captions(value: object, origin: str) -> tuple[str, ...]:
    """``value``, a caption or a list of them, as a tuple. Raises ``UnreadableError``, which names ``origin``."""
    captions = tuple(value) if isinstance(value, list) else (value,)
    if not captions or any(caption is None or caption == "" for caption in captions):
        raise UnreadableError(f"the caption is empty ({origin})")
    for caption in captions:
        if not isinstance(caption, str):
            raise UnreadableError(f"the caption must be a text; got {type(caption).__name__} ({origin})")
        if not caption.strip():
            raise UnreadableError(f"the caption is empty ({origin})")
        if not is_unicode(caption):
            raise UnreadableError(f"the caption is not UTF-8 ({origin})")
    return captions


def is_unicode(text: str) -> bool:
    """Whether all of a decoded text was UTF-8: Python keeps other bytes as single surrogates."""
    return text.isascii() or not any("\ud800" <= letter <= "\udfff" for letter in text)
