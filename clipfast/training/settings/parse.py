"""Parse plain values into frozen dataclasses; an error names the key, what is accepted and what came."""

from __future__ import annotations

import dataclasses
import types
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from difflib import get_close_matches
from typing import Any, Literal, TypeVar, Union, get_args, get_origin, get_type_hints

from clipfast.common.toml_files import toml_value

T = TypeVar("T")
Values = dict[str, Any]
KINDS = {bool: "true or false", int: "a whole number", float: "a number", str: "text"}


class ConfigError(ValueError):
    """A key of the configuration, or a file or flag that sets it, cannot be used."""


class Flag(str):
    """The text of a flag, whose meaning depends on the type of the key that it sets."""

    __slots__ = ()


@contextmanager
def named(key: str) -> Iterator[None]:
    """Put the name of a key before errors of the files or values that it stands for."""
    try:
        yield
    except (ValueError, OSError) as error:
        raise ValueError(f"{key}: {error}") from error


def parse(kind: type[T], values: Mapping[str, Any], where: str = "") -> T:
    """The dataclass ``kind`` from a table of plain values; ``where`` is the table's name with a dot, for errors.

    A field may be a boolean, a number, text, a ``Literal``, a tuple or another dataclass, each with or without None.
    Raises ConfigError; so do ValueErrors of a dataclass's own ``__post_init__``, with the table's name before them.
    """
    unknown, missing = _misfits(kind, values)
    if unknown:
        raise ConfigError(_unknown(unknown[0], where, [field.name for field in dataclasses.fields(kind)]))  # type: ignore[arg-type]
    if missing:
        raise ConfigError(f"{', '.join(where + name for name in missing)} must be given: there is no default")
    hints = get_type_hints(kind)
    converted = {key: _convert(hints[key], value, where + key) for key, value in values.items()}
    try:
        return kind(**converted)
    except ConfigError:
        raise
    except ValueError as error:
        raise ConfigError(f"{where.rstrip('.') or 'the configuration'}: {error}") from error


def _misfits(kind: Any, values: Mapping[str, Any]) -> tuple[list[str], list[str]]:
    """The keys of ``values`` that ``kind`` does not have, and those that it needs and ``values`` lacks."""
    fields = {field.name: field for field in dataclasses.fields(kind)}
    needed = [n for n, f in fields.items() if f.default is dataclasses.MISSING and f.default_factory is dataclasses.MISSING]
    return [key for key in values if key not in fields], [name for name in needed if name not in values]


def _convert(hint: Any, value: Any, key: str) -> Any:
    kinds = [kind for kind in _alternatives(hint) if kind is not types.NoneType]
    if isinstance(value, Flag):
        value = str(value) if str in kinds or get_origin(kinds[0]) is Literal else _flag_value(value)
    if dataclasses.is_dataclass(kinds[0]):
        if not isinstance(value, Mapping):
            raise ConfigError(f"{key} must be a table with keys of its own; got {_described(value)}")
        return parse(_closest(kinds, value), value, f"{key}.")
    if get_origin(kinds[0]) is Literal:
        return _choice(get_args(kinds[0]), value, key)
    if get_origin(kinds[0]) is tuple:
        return _several(get_args(kinds[0]), value, key)
    return _single(kinds[0], value, key)


def _flag_value(text: Flag) -> Any:
    try:
        return toml_value(text)
    except ValueError:  # stays text, for which the key has an error
        return str(text)


def _alternatives(hint: Any) -> tuple[Any, ...]:
    return get_args(hint) if get_origin(hint) in (Union, types.UnionType) else (hint,)


def _closest(kinds: Sequence[Any], value: Mapping[str, Any]) -> Any:
    """The one of several kinds of tables that fits ``value`` best."""
    return min(kinds, key=lambda kind: sum(map(len, _misfits(kind, value))))


def _single(kind: type, value: Any, key: str) -> Any:
    if kind is float and type(value) is int:
        return float(value)
    if type(value) is not kind:  # not isinstance: True is an int
        raise ConfigError(f"{key} must be {KINDS[kind]}; got {_described(value)}")
    return value


def _choice(accepted: tuple[Any, ...], value: Any, key: str) -> Any:
    if value not in accepted:
        raise ConfigError(f"{key} must be one of {', '.join(map(repr, accepted))}; got {_described(value)}")
    return value


def _several(kinds: tuple[Any, ...], value: Any, key: str) -> tuple[Any, ...]:
    if not isinstance(value, (list, tuple)):
        raise ConfigError(f"{key} must be a list; got {_described(value)}")
    if kinds[-1] is Ellipsis:
        kinds = kinds[:1] * len(value)
    if len(value) != len(kinds):
        raise ConfigError(f"{key} must be a list of {len(kinds)}; got {_described(value)}")
    return tuple(_convert(kind, item, f"{key}[{i}]") for i, (kind, item) in enumerate(zip(kinds, value, strict=True)))


def _unknown(key: str, where: str, accepted: list[str]) -> str:
    close = get_close_matches(key, accepted, n=1)
    hint = f" (did you mean {close[0]}?)" if close else ""
    return f"unknown configuration key {where}{key}{hint}; accepted there: {', '.join(accepted)}"


def _described(value: Any) -> str:
    if isinstance(value, Mapping):
        return f"a table with {', '.join(value) or 'nothing'}"
    kind = "a list" if isinstance(value, (list, tuple)) else KINDS.get(type(value), type(value).__name__)
    return f"{value!r} ({kind})"
