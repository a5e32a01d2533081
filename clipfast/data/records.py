"""One picture with its captions, wherever it came from, and what becomes of those that cannot be read."""

from __future__ import annotations

from typing import NamedTuple, Protocol

import numpy as np

from clipfast.images.pictures import UnreadableError


class Skipped(NamedTuple):
    """A pair that was left out: ``where`` is file:line, a picture's path or shard/key."""

    where: str
    why: str


class NothingReadableError(ValueError):
    """A batch, or everything there is, without one readable pair."""


class Record(NamedTuple):
    """A picture, as a path or as the bytes of its file, and its captions, of which training takes one."""

    image: str | bytes
    captions: tuple[str, ...]


class Example(NamedTuple):
    """A record, its place in the epoch or in the table, and where it is for a reader of messages."""

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
    """Records whose values can be compared without reading the pictures."""

    def labels(self) -> list[str]:
        """The class names, sorted, each once."""

    def groups(self, name: str) -> np.ndarray:
        """(len,) int64: the same number where ``name`` (a column, or "class") has the same value."""


def checked_captions(value: object, origin: str) -> tuple[str, ...]:
    """A text, or a list of several, none of them empty."""
    captions = tuple(value) if isinstance(value, list) else (value,)
    if not captions or any(caption is None or caption == "" for caption in captions):
        raise UnreadableError(f"the caption is empty ({origin})")
    for caption in captions:
        if not isinstance(caption, str):
            raise UnreadableError(f"the caption is not a text, but {type(caption).__name__} ({origin})")
        if not caption.strip():
            raise UnreadableError(f"the caption is empty ({origin})")
        if not is_unicode(caption):
            raise UnreadableError(f"the caption is not UTF-8 ({origin})")
    return captions


def is_unicode(text: str) -> bool:
    """False for a text with bytes in it that were not UTF-8, which Python keeps as single surrogates."""
    return text.isascii() or not any("\ud800" <= letter <= "\udfff" for letter in text)
