"""Picture files: which there are, and what is in one, or why that cannot be said."""

from __future__ import annotations

import io
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

from torch import Tensor

from clipfast.common.extras import require


class UnreadableError(Exception):
    """Its message says why a picture, or what belongs to it, is left out."""


def find_pictures(paths: Iterable[Path]) -> list[Path]:
    """Files as they are given, and of folders the pictures below them, sorted; ValueError for a folder without any."""
    found: list[Path] = []
    for path in paths:
        if not path.is_dir():
            found.append(path)  # also one that does not exist: it is reported with the unreadable ones
            continue
        suffixes = require("PIL.Image", "reading pictures", "pillow").registered_extensions()
        inside = sorted(file for file in path.rglob("*") if file.suffix.lower() in suffixes and file.is_file())
        if not inside:
            raise ValueError(f"there are no pictures in the folder {path}")
        found += inside
    return found


def read_picture(source: str | Path | bytes, transform: Callable[[Any], Tensor]) -> Tensor:
    """``transform`` of the picture in a file, or in its bytes; ``UnreadableError`` if it is missing, damaged or cut off."""
    opener = require("PIL.Image", "reading pictures", "pillow")
    try:
        with opener.open(io.BytesIO(source) if isinstance(source, bytes) else source) as picture:
            return transform(picture)
    except Exception as error:  # a damaged file may raise anything in a decoder; one file must not end a run over many
        if isinstance(error, opener.UnidentifiedImageError):
            raise UnreadableError("not a picture in a format that pillow reads") from error
        reason = getattr(error, "strerror", None) or str(error) or repr(error)
        raise UnreadableError(reason.splitlines()[0]) from error
