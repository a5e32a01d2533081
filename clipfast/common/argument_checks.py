"""Checks that arguments of several rooms share, with one wording of each error."""

from __future__ import annotations

from collections.abc import Sequence


def check_choice(name: str, value: object, accepted: Sequence[object]) -> None:
    """ValueError unless ``value`` is one of ``accepted``."""
    if value not in accepted:
        raise ValueError(f"{name} must be one of {', '.join(map(repr, accepted))}; got {value!r}")


def check_whole_number(name: str, value: object, least: int) -> None:
    """ValueError unless ``value`` is an int, and no bool, of at least ``least``."""
    if isinstance(value, bool) or not isinstance(value, int) or value < least:
        raise ValueError(f"{name} must be a whole number of at least {least}; got {value!r}")
