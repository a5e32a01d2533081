"""Bytes that this process hands to its group, for tests and for the model of ``clipfast.plan``."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field

from torch import Tensor


@dataclass
class Traffic:
    """``sent``: bytes by kind. Point-to-point sends ("ring") count what leaves this rank; collectives count what it puts in."""

    sent: Counter[str] = field(default_factory=Counter)


_listeners: list[Traffic] = []


@contextmanager
def counted() -> Iterator[Traffic]:
    """Count what the losses send while the context is open."""
    traffic = Traffic()
    _listeners.append(traffic)
    try:
        yield traffic
    finally:
        _listeners.remove(traffic)


def note(kind: str, *tensors: Tensor) -> None:
    for traffic in _listeners:
        traffic.sent[kind] += sum(x.numel() * x.element_size() for x in tensors)
