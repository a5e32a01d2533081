"""Plain values into frozen dataclasses; an error names the key, what came and what is accepted."""

from __future__ import annotations

import dataclasses
import types
from collections.abc import Mapping, Sequence
from difflib import get_close_matches
from typing import Any, Literal, TypeVar, Union, get_args, get_origin, get_type_hints

from clipfast.training.sources import ConfigError, Flag, parsed

T = TypeVar("T")
KINDS = {bool: "true or false", int: "a whole number", float: "a number", str: "text"}


def read(kind: type[T], values: Mapping[str, Any], where: str = "") -> T:
    """The dataclass ``kind`` from a table of plain values; ``where`` is the table's name with a dot, for errors.

    Fields are booleans, numbers, text, ``Literal``, tuples, further dataclasses, or one of these or None. What a field's
    own ``__post_init__`` raises as ValueError comes with the table's name. Raises ConfigError.
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
    """The keys that ``kind`` does not have, and those that it needs."""
    fields = {field.name: field for field in dataclasses.fields(kind)}
    needed = [n for n, f in fields.items() if f.default is dataclasses.MISSING and f.default_factory is dataclasses.MISSING]
    return [key for key in values if key not in fields], [name for name in needed if name not in values]


def _convert(hint: Any, value: Any, key: str) -> Any:
    kinds = [kind for kind in _alternatives(hint) if kind is not types.NoneType]
    if isinstance(value, Flag):
        value = str(value) if str in kinds or get_origin(kinds[0]) is Literal else parsed(value)
    if dataclasses.is_dataclass(kinds[0]):
        if not isinstance(value, Mapping):
            raise ConfigError(f"{key} is a table with keys of its own; got {_described(value)}")
        return read(_closest(kinds, value), value, f"{key}.")
    if get_origin(kinds[0]) is Literal:
        return _choice(get_args(kinds[0]), value, key)
    if get_origin(kinds[0]) is tuple:
        return _several(get_args(kinds[0]), value, key)
    return _single(kinds[0], value, key)


def _alternatives(hint: Any) -> tuple[Any, ...]:
    return get_args(hint) if get_origin(hint) in (Union, types.UnionType) else (hint,)


def _closest(kinds: Sequence[Any], value: Mapping[str, Any]) -> Any:
    """Of several kinds of tables the one that ``value`` fits best."""
    return min(kinds, key=lambda kind: sum(map(len, _misfits(kind, value))))


def _single(kind: type, value: Any, key: str) -> Any:
    if kind is float and type(value) is int:
        return float(value)
    if type(value) is not kind:  # not isinstance: True is an int
        raise ConfigError(f"{key} takes {KINDS[kind]}; got {_described(value)}")
    return value


def _choice(accepted: tuple[Any, ...], value: Any, key: str) -> Any:
    if value not in accepted:
        raise ConfigError(f"{key} is one of {', '.join(map(repr, accepted))}; got {_described(value)}")
    return value


def _several(kinds: tuple[Any, ...], value: Any, key: str) -> tuple[Any, ...]:
    if not isinstance(value, (list, tuple)):
        raise ConfigError(f"{key} takes a list; got {_described(value)}")
    if kinds[-1] is Ellipsis:
        kinds = kinds[:1] * len(value)
    if len(value) != len(kinds):
        raise ConfigError(f"{key} takes a list of {len(kinds)}; got {_described(value)}")
    return tuple(_convert(kind, item, f"{key}[{i}]") for i, (kind, item) in enumerate(zip(kinds, value, strict=True)))


def _unknown(key: str, where: str, accepted: list[str]) -> str:
    close = get_close_matches(key, accepted, n=1)
    hint = f" (did you mean {close[0]}?)" if close else ""
    return f"{where}{key} is no key of the configuration{hint}; accepted there: {', '.join(accepted)}"


def _described(value: Any) -> str:
    if isinstance(value, Mapping):
        return f"a table with {', '.join(value) or 'nothing'}"
    return (
        f"{value!r} (a list)"
        if isinstance(value, (list, tuple))
        else f"{value!r} ({KINDS.get(type(value), 'of no kind here')})"
    )
