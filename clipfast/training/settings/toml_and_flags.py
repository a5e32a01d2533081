"""A configuration from a TOML file, and from flags that replace single values of it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

from clipfast.common.toml_files import read_toml
from clipfast.training.settings.parse import ConfigError, Flag, Values
from clipfast.training.settings.train_config import TrainConfig


def configured(arguments: Sequence[str]) -> TrainConfig:
    """The configuration of a TOML file, if the first argument is one, and of flags; ConfigError names the wrong key."""
    file = list(arguments[:1]) if arguments and not arguments[0].startswith("--") else []
    values = _from_file(Path(file[0])) if file else {}
    return TrainConfig.from_values(merged(values, read_flags(arguments[len(file) :])))


def _from_file(path: Path) -> Values:
    try:
        return read_toml(path)
    except ValueError as error:
        raise ConfigError(f"the configuration file {error}") from error


def read_flags(arguments: Sequence[str]) -> Values:
    """``--table.key value`` and ``--table.key=value`` as nested tables; a flag without a value is true."""
    values: Values = {}
    pending = list(arguments)
    while pending:
        name, equals, text = pending.pop(0).partition("=")
        if not name.startswith("--") or not name.strip("-"):
            raise ConfigError(f"a key of the configuration must be given as --key value or --table.key value; got {name!r}")
        if not equals:
            text = pending.pop(0) if pending and not pending[0].startswith("--") else "true"
        _put(values, name[2:].replace("-", "_").split("."), Flag(text), name)
    return values


def _put(values: Values, path: list[str], text: Flag, name: str) -> None:
    for key in path[:-1]:
        values = values.setdefault(key, {})
        if not isinstance(values, dict):
            raise ConfigError(f"{name} must be the only flag that sets {key}; got another one, which sets it as a whole")
    values[path[-1]] = text


def merged(base: Mapping[str, object], changes: Mapping[str, object]) -> Values:
    """``base`` with the values of ``changes`` in place of its own, table by table."""
    result = dict(base)
    for key, value in changes.items():
        old = result.get(key)
        result[key] = merged(old, value) if isinstance(old, Mapping) and isinstance(value, Mapping) else value
    return result
