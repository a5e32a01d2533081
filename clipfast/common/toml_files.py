"""Reading TOML files; on Python 3.10, whose standard library cannot, with tomli."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

from clipfast.common.extras import require


def read_toml(path: Path) -> dict[str, Any]:
    """The tables and values of a file; ValueError, which names it, for one that cannot be read or is no TOML."""
    try:
        return _toml().loads(path.read_text("utf-8"))
    except OSError as error:
        raise ValueError(f"{path} cannot be read: {error.strerror}") from error
    except ValueError as error:  # of the encoding or of the syntax
        raise ValueError(f"{path} is not a TOML file: {error}") from error


def toml_value(text: str) -> Any:
    """A value as TOML reads it after ``key =``, such as a number, true or a list; ValueError for anything else."""
    return _toml().loads(f"value = {text}")["value"]


def _toml() -> Any:
    if sys.version_info >= (3, 11):
        import tomllib

        return tomllib
    return require("tomli", "a TOML file on Python 3.10", extra="train")
