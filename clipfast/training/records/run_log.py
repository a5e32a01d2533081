"""The log of a run: one JSON object a line, and the same numbers for TensorBoard."""

from __future__ import annotations

import json
import math
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from clipfast.common.extras import require
from clipfast.common.files import write_atomically


class Log:
    """Appends to ``path``; each line has its ``event`` and ``step``. Numbers that are not finite are written as null."""

    def __init__(self, path: Path, board: Any = None) -> None:
        self.board = board
        self._file = path.open("a", encoding="utf-8")

    def write(self, event: str, step: int, **values: Any) -> None:
        line = {"event": event, "step": step, **{name: _finite(value) for name, value in values.items()}}
        self._file.write(json.dumps(line, ensure_ascii=False) + "\n")
        self._file.flush()
        if self.board is not None:
            for name, value in values.items():
                if isinstance(value, (int, float)):
                    self.board.add_scalar(f"{event}/{name}", value, step)

    def close(self) -> None:
        self._file.close()
        if self.board is not None:
            self.board.close()


@contextmanager
def open_log(folder: Path, step: int, tensorboard: bool = False) -> Iterator[Log]:
    """The log in ``folder`` of a run that goes on after ``step``: lines of later steps are removed, for they come again."""
    path = folder / "log.jsonl"
    _remove_after(path, step)
    board = None
    if tensorboard:
        require("tensorboard", "log.tensorboard", extra="train")
        from torch.utils.tensorboard import SummaryWriter

        board = SummaryWriter(str(folder / "tensorboard"), purge_step=step + 1)
    log = Log(path, board)
    try:
        yield log
    finally:
        log.close()


def read_log(path: Path) -> list[dict[str, Any]]:
    """The objects of a log, without a line that a killed process left unfinished."""
    lines = path.read_text("utf-8", errors="replace").split("\n") if path.exists() else []
    return [entry for line in lines if (entry := _parsed(line)) is not None]


def _parsed(line: str) -> dict[str, Any] | None:
    try:
        entry = json.loads(line)
    except ValueError:
        return None
    return entry if isinstance(entry, dict) and isinstance(entry.get("step"), int) else None


def _remove_after(path: Path, step: int) -> None:
    kept = [line for line in read_log(path) if line["step"] <= step]
    text = "".join(json.dumps(line, ensure_ascii=False) + "\n" for line in kept)
    write_atomically(path, lambda file: file.write(text.encode()))


def _finite(value: Any) -> Any:
    return None if isinstance(value, float) and not math.isfinite(value) else value
