"""Writing files whole or not at all."""

from __future__ import annotations

import json
import os
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import IO, Any


def write_atomically(path: Path, write: Callable[[IO[bytes]], object]) -> None:
    """Write beside ``path`` and rename: a reader, or an interrupted run, never meets half a file."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.NamedTemporaryFile(dir=path.parent, prefix=f".{path.name}.", delete=False) as file:
        try:
            write(file)
            file.flush()
            os.fsync(file.fileno())
        except BaseException:
            os.unlink(file.name)
            raise
    os.chmod(file.name, 0o666 & ~_umask())  # only its owner may read a temporary file
    os.replace(file.name, path)


def write_json(path: Path, content: Any) -> None:
    write_atomically(path, lambda file: file.write(json.dumps(content, indent=1).encode()))


def _umask() -> int:
    mask = os.umask(0)
    os.umask(mask)
    return mask
