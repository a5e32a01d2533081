"""Rows of CSV, TSV and JSONL files, found by their offsets: of a table of any length, 16 bytes a row are in memory."""

from __future__ import annotations

import codecs
import csv
import json
from array import array
from collections.abc import Iterator
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np

from clipfast.data.records import is_unicode
from clipfast.images.pictures import UnreadableError


class Rows:
    """``rows[i]`` is a dict from column to value, ``rows.line(i)`` its line in the file, ``columns`` those of the header.

    Opening reads the file once, to find where its rows begin. Blank lines are no rows. ValueError for a file that is not
    what its ending says, or has no rows.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self.columns: tuple[str, ...] = ()
        offsets, numbers = array("q"), array("q")
        with path.open("rb") as file:
            lines = _Lines(file)
            try:
                self.columns = self._header(lines)
                start, number = lines.offset, lines.number
                for row in self._parsed(lines):
                    if row:
                        offsets.append(start)
                        numbers.append(number + 1)
                    start, number = lines.offset, lines.number
            except csv.Error as error:
                raise ValueError(f"{path}:{lines.number} is not a row of a {path.suffix} file: {error}") from error
        if not offsets:
            raise ValueError(f"{path} is empty: it has no rows")
        self._offsets, self._numbers = np.asarray(offsets), np.asarray(numbers)

    def __len__(self) -> int:
        return len(self._offsets)

    def line(self, index: int) -> int:
        return int(self._numbers[index])

    def __getitem__(self, index: int) -> dict[str, Any]:
        with self.path.open("rb") as file:  # each time: processes that share a handle would share its position
            file.seek(self._offsets[index])
            return self._named(next(self._parsed(_Lines(file))))

    def column(self, name: str) -> Iterator[Any]:
        """The value of every row; None where the row cannot be read."""
        with self.path.open("rb") as file:
            lines = _Lines(file)
            self._header(lines)
            for row in filter(None, self._parsed(lines)):
                try:
                    yield self._named(row).get(name)
                except UnreadableError:
                    yield None

    def _header(self, lines: _Lines) -> tuple[str, ...]:
        raise NotImplementedError

    def _parsed(self, lines: _Lines) -> Iterator[Any]:
        """One item for each row, false for a blank line."""
        raise NotImplementedError

    def _named(self, row: Any) -> dict[str, Any]:
        raise NotImplementedError


class DelimitedRows(Rows):
    """A header with the columns' names, then rows with as many fields; quoted as spreadsheets do (RFC 4180)."""

    def __init__(self, path: Path) -> None:
        self._delimiter = "\t" if path.suffix.lower() == ".tsv" else ","
        super().__init__(path)

    def _header(self, lines: _Lines) -> tuple[str, ...]:
        columns = tuple(next(self._parsed(lines), ()))
        names, kind = "".join(columns), Path(lines.name).suffix
        if "\0" in names or not is_unicode(names):
            raise ValueError(f"{lines.name} is not a {kind} file in UTF-8: its first line is {columns}")
        if "\t" in names:
            raise ValueError(f"{lines.name} has tabs between its columns, where a {kind} file has commas; call it .tsv")
        return columns

    def _parsed(self, lines: _Lines) -> Iterator[list[str]]:
        return csv.reader(lines, delimiter=self._delimiter, strict=True)

    def _named(self, row: list[str]) -> dict[str, Any]:
        if len(row) != len(self.columns):
            raise UnreadableError(f"the row has {len(row)} fields, and the header {len(self.columns)}")
        return dict(zip(self.columns, row, strict=True))


class JsonRows(Rows):
    """One JSON object in each line; the columns are the keys of the first."""

    def _header(self, lines: _Lines) -> tuple[str, ...]:
        first = next((line for line in lines if line.strip()), "")
        lines.rewind()
        if not first:
            return ()
        try:
            return tuple(self._named(first))
        except UnreadableError as error:
            raise ValueError(f"{lines.name} is not a .jsonl file: in its first line, {error}") from error

    def _parsed(self, lines: _Lines) -> Iterator[str]:
        return (line.strip() for line in lines)

    def _named(self, row: str) -> dict[str, Any]:
        try:
            value = json.loads(row)
        except ValueError as error:
            raise UnreadableError(f"the line is not JSON: {error}") from error
        if not isinstance(value, dict):
            raise UnreadableError(f"the line is no JSON object with keys, but {type(value).__name__}")
        return value


class _Lines:
    """The lines of a file as text, and how far they were read: a quoted field may span several."""

    def __init__(self, file: BinaryIO) -> None:
        self._file, self.name = file, file.name
        self._first, self.offset, self.number = file.tell(), file.tell(), 0

    def __iter__(self) -> _Lines:
        return self

    def __next__(self) -> str:
        line = self._file.readline()
        if not line:
            raise StopIteration
        text = line.removeprefix(codecs.BOM_UTF8) if self.offset == 0 else line
        self.offset += len(line)
        self.number += 1
        return text.decode("utf-8", "surrogateescape")  # a row that is not UTF-8 is skipped when it is read

    def rewind(self) -> None:
        self._file.seek(self._first)
        self.offset, self.number = self._first, 0
