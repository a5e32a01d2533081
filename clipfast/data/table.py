"""Pairs listed in a table: the path of each picture, and its caption or captions."""

from __future__ import annotations

import os
from contextlib import suppress
from pathlib import Path
from typing import Any

import numpy as np

from clipfast.data.data_config import DataConfig
from clipfast.data.records import Record, checked_captions
from clipfast.data.table_rows import DelimitedRows, JsonRows, Rows
from clipfast.images.pictures import UnreadableError

ROWS: dict[str, type[Rows]] = {".csv": DelimitedRows, ".tsv": DelimitedRows, ".jsonl": JsonRows}


class Table:
    """``Records`` of a CSV, TSV or JSONL file. In JSONL a caption may be a list of captions."""

    def __init__(self, config: DataConfig) -> None:
        path = Path(config.source)
        self.root = path.parent if config.root is None else Path(config.root)
        self.image, self.caption = config.image_key or "image", config.caption_key or "caption"
        self._rows = ROWS[path.suffix.lower()](path)
        for column in (self.image, self.caption):
            self._check(column)

    def __len__(self) -> int:
        return len(self._rows)

    def where(self, index: int) -> str:
        return f"{self._rows.path}:{self._rows.line(index)}"

    def read(self, index: int) -> Record:
        row = self._rows[index]
        path = row.get(self.image)
        if not isinstance(path, str) or not path:
            raise UnreadableError(f"{self.image!r} must be the path of a picture; got {path!r}")
        captions = checked_captions(row.get(self.caption), f"in {self.caption!r}")
        return Record(os.path.join(self.root, path), captions)

    def labels(self) -> list[str]:
        found: set[str] = set()
        for value in self._rows.column(self.caption):
            with suppress(UnreadableError):
                found.update(checked_captions(value, ""))
        return sorted(found)

    def groups(self, name: str) -> np.ndarray:
        self._check(name)
        numbers: dict[str, int] = {}
        return np.array([numbers.setdefault(_hashable(value), len(numbers)) for value in self._rows.column(name)])

    def _check(self, column: str) -> None:
        if column not in self._rows.columns:
            named = ", ".join(map(repr, self._rows.columns))
            raise ValueError(f"{self._rows.path} must have a column {column!r}; got {named}")


class JoinedRows:
    """``Records`` of a table's pictures: one with several rows comes once, with all their captions, and if one of its rows
    cannot be read, neither can the picture."""

    def __init__(self, table: Table) -> None:
        self._table = table
        pictures = table.groups(table.image)  # numbered in the order of their first rows
        self._rows = np.argsort(pictures, kind="stable")
        self._first = np.searchsorted(pictures[self._rows], np.arange(pictures.max() + 2))

    def __len__(self) -> int:
        return len(self._first) - 1

    def where(self, index: int) -> str:
        return self._table.where(self._rows[self._first[index]])

    def read(self, index: int) -> Record:
        read = [self._read(row) for row in self._rows[self._first[index] : self._first[index + 1]]]
        return Record(read[0].image, tuple(caption for record in read for caption in record.captions))

    def _read(self, row: int) -> Record:
        try:
            return self._table.read(row)
        except UnreadableError as error:
            raise UnreadableError(f"{self._table.where(row)}: {error}") from error


def _hashable(value: Any) -> str:
    return value if isinstance(value, str) else repr(value)
