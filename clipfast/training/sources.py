"""Where a configuration's values come from: a TOML file, and flags that replace single values of it."""

from __future__ import annotations

import sys
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from clipfast.common.extras import require

Values = dict[str, Any]


class ConfigError(ValueError):
    """A key of the configuration, or a file or flag that sets it, cannot be used."""


class Flag(str):
    """The text of a flag; what it stands for depends on the key that it is for."""

    __slots__ = ()


@contextmanager
def named(key: str) -> Iterator[None]:
    """Errors of files that a key names come with the key."""
    try:
        yield
    except (ValueError, OSError) as error:
        raise ValueError(f"{key}: {error}") from error


def read_toml(path: Path) -> Values:
    """The values of a file; ConfigError for one that cannot be read or is no TOML."""
    toml = _toml()
    try:
        return toml.loads(path.read_text("utf-8"))
    except OSError as error:
        raise ConfigError(f"the configuration cannot be read from {path}: {error.strerror}") from error
    except (UnicodeDecodeError, toml.TOMLDecodeError) as error:
        raise ConfigError(f"{path} is not a TOML file: {error}") from error


def read_flags(arguments: Sequence[str]) -> Values:
    """``--table.key value`` and ``--table.key=value`` as nested tables; a flag without a value is true."""
    values: Values = {}
    pending = list(arguments)
    while pending:
        name, equals, text = pending.pop(0).partition("=")
        if not name.startswith("--") or not name.strip("-"):
            raise ConfigError(f"{name!r} is no flag: a key of the configuration is given as --key value or --table.key value")
        if not equals:
            text = pending.pop(0) if pending and not pending[0].startswith("--") else "true"
        _put(values, name[2:].replace("-", "_").split("."), Flag(text), name)
    return values


def _put(values: Values, path: list[str], text: Flag, name: str) -> None:
    for key in path[:-1]:
        values = values.setdefault(key, {})
        if not isinstance(values, dict):
            raise ConfigError(f"{name} sets a part of {key}, which another flag sets as a whole")
    values[path[-1]] = text


def merged(below: Mapping[str, Any], above: Mapping[str, Any]) -> Values:
    """``below``, with what ``above`` has in its place, table by table."""
    result = dict(below)
    for key, value in above.items():
        old = result.get(key)
        result[key] = merged(old, value) if isinstance(old, Mapping) and isinstance(value, Mapping) else value
    return result


def parsed(text: Flag) -> Any:
    """As TOML reads it: a number, true, a list. Anything else stays text, for which the key has an error."""
    toml = _toml()
    try:
        return toml.loads(f"value = {text}")["value"]
    except toml.TOMLDecodeError:
        return str(text)


def _toml() -> Any:
    if sys.version_info >= (3, 11):
        import tomllib

        return tomllib
    return require("tomli", "a TOML file on Python 3.10", extra="train")
