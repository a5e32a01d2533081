"""Rows of CSV, TSV and JSONL files, found by their offsets: a table takes 16 bytes of memory for each row."""

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
    """``rows[i]`` is a dict from column to value, ``rows.line(i)`` its line in the file, ``columns`` are the header's.

    Opening reads the file once, to find where its rows begin. Blank lines are skipped. Raises ValueError for a file that is
    not what its ending says, or that has no rows.
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
                raise ValueError(f"{path}:{lines.number} must be a row of a {path.suffix} file; got {error}") from error
        if not offsets:
            raise ValueError(f"{path} must have at least one row; got none")
        self._offsets, self._numbers = np.asarray(offsets), np.asarray(numbers)

    def __len__(self) -> int:
        return len(self._offsets)

    def line(self, index: int) -> int:
        return int(self._numbers[index])

    def __getitem__(self, index: int) -> dict[str, Any]:
        with self.path.open("rb") as file:  # opened for each row: processes that share a handle would share its position
            file.seek(self._offsets[index])
            return self._named(next(self._parsed(_Lines(file))))

    def column(self, name: str) -> Iterator[Any]:
        """Each row's value; None if the row cannot be read."""
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
    """A header with the columns' names, then rows with as many fields, quoted as in RFC 4180."""

    def __init__(self, path: Path) -> None:
        self._delimiter = "\t" if path.suffix.lower() == ".tsv" else ","
        super().__init__(path)

    def _header(self, lines: _Lines) -> tuple[str, ...]:
        columns = tuple(next(self._parsed(lines), ()))
        names, kind = "".join(columns), Path(lines.name).suffix
        if "\0" in names or not is_unicode(names):
            raise ValueError(f"{lines.name} must be a {kind} file in UTF-8; got a first line of {columns}")
        if "\t" in names:
            raise ValueError(f"{lines.name} must have commas between its columns; got tabs; rename it to .tsv")
        return columns

    def _parsed(self, lines: _Lines) -> Iterator[list[str]]:
        return csv.reader(lines, delimiter=self._delimiter, strict=True)

    def _named(self, row: list[str]) -> dict[str, Any]:
        if len(row) != len(self.columns):
            raise UnreadableError(f"the row must have {len(self.columns)} fields, as the header; got {len(row)}")
        return dict(zip(self.columns, row, strict=True))


class JsonRows(Rows):
    """One JSON object in each line; the columns are the first one's keys."""

    def _header(self, lines: _Lines) -> tuple[str, ...]:
        first = next((line for line in lines if line.strip()), "")
        lines.rewind()
        if not first:
            return ()
        try:
            return tuple(self._named(first))
        except UnreadableError as error:
            raise ValueError(f"{lines.name} must be a .jsonl file; in its first line {error}") from error

    def _parsed(self, lines: _Lines) -> Iterator[str]:
        return (line.strip() for line in lines)

    def _named(self, row: str) -> dict[str, Any]:
        try:
            value = json.loads(row)
        except ValueError as error:
            raise UnreadableError(f"the line must be JSON; got {error}") from error
        if not isinstance(value, dict):
            raise UnreadableError(f"the line must be a JSON object; got {type(value).__name__}")
        return value


class _Lines:
    """The lines of a file as text, with the offset and the number of lines read, as a quoted field may span several lines."""

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
        return text.decode("utf-8", "surrogateescape")  # a row that is not UTF-8 is refused when it is read

    def rewind(self) -> None:
        self._file.seek(self._first)
        self.offset, self.number = self._first, 0
