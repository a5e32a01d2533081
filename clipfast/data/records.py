"""One picture with its captions, wherever it came from, and what becomes of those that cannot be read."""

from __future__ import annotations

import io
from collections.abc import Callable
from typing import Any, NamedTuple, Protocol

import numpy as np
from torch import Tensor

from clipfast.extras import require


class Skipped(NamedTuple):
    """A pair that was left out: ``where`` is file:line, a picture's path or shard/key."""

    where: str
    why: str


class UnreadableError(Exception):
    """Its message says why a pair is left out."""


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


def read_picture(image: str | bytes, transform: Callable[[Any], Tensor]) -> Tensor:
    """``transform`` of the picture; ``UnreadableError`` if it is missing, damaged or cut off."""
    opener = require("PIL.Image", "reading pictures", "pillow")
    try:
        with opener.open(io.BytesIO(image) if isinstance(image, bytes) else image) as picture:
            return transform(picture)
    except Exception as error:  # a damaged file may raise anything in a decoder; one file must not end a run over many
        name = "" if isinstance(image, bytes) else f"{image}: "
        if isinstance(error, opener.UnidentifiedImageError):
            raise UnreadableError(f"{name}not a picture in a format that pillow reads") from error
        reason = getattr(error, "strerror", None) or str(error) or repr(error)
        raise UnreadableError(name + reason.splitlines()[0]) from error


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
        if not caption.isascii() and any("\ud800" <= letter <= "\udfff" for letter in caption):
            raise UnreadableError(f"the caption is not UTF-8 ({origin})")
    return captions
