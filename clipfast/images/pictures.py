"""Finding picture files, and reading one or saying why it cannot be read."""

from __future__ import annotations

import io
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

from torch import Tensor

from clipfast.common.extras import require


class UnreadableError(Exception):
    """A picture, or its caption, cannot be read; the message says why."""


def find_pictures(paths: Iterable[Path]) -> list[Path]:
    """``paths``, with each folder replaced by the pictures below it, sorted; ValueError for a folder without pictures."""
    found: list[Path] = []
    for path in paths:
        if not path.is_dir():
            found.append(path)  # even if it does not exist: then it is reported among the unreadable ones
            continue
        suffixes = require("PIL.Image", "reading pictures", "pillow").registered_extensions()
        inside = sorted(file for file in path.rglob("*") if file.suffix.lower() in suffixes and file.is_file())
        if not inside:
            raise ValueError(f"there are no pictures in the folder {path}")
        found += inside
    return found


def read_picture(source: str | Path | bytes, transform: Callable[[Any], Tensor]) -> Tensor:
    """``transform`` of the picture in a file, given by its path or its bytes.

    Raises ``UnreadableError`` for a file that is missing, damaged or cut off.
    """
    opener = require("PIL.Image", "reading pictures", "pillow")
    try:
        with opener.open(io.BytesIO(source) if isinstance(source, bytes) else source) as picture:
            return transform(picture)
    except Exception as error:  # a decoder may raise anything for a damaged file, which must not end a run over many
        if isinstance(error, opener.UnidentifiedImageError):
            raise UnreadableError("not a picture in a format that pillow reads") from error
        reason = getattr(error, "strerror", None) or str(error) or repr(error)
        raise UnreadableError(reason.splitlines()[0]) from error
