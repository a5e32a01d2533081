"""The constants that decide how a loss is computed, in one record, so that a test or a measurement can put others in force."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import Any

DEFAULT_WORKSPACE_BYTES = 64 * 2**20
"""Extra memory, beside the gradients, that a loss on the CPU may use (64 MiB)."""


@dataclass(frozen=True)
class Limits:
    """All sides are in logits, all sizes in bytes unless a field's name says otherwise."""

    tile_side: int = 1024
    """Largest side of a tile on the CPU: 4 MiB of float32 stay in the last-level cache between the product and its epilogue."""
    smallest_side: int = 64
    """Sides are multiples of this, and no workspace may be smaller than one such tile needs."""
    macro_side: int = 8448
    """Tile side on an accelerator: 136 MiB of weights in half precision, enough for the library's products to run at full rate.

    The two products of a tile, (side, width) each, are cut by the library into blocks of 128 x 256 results, in waves of one
    per multiprocessor. On an H200's 132, 8448 = 66 x 128 fills whole waves at widths 512 and 1024, where 8192 leaves 3% idle.
    At 768 and 1152 both leave a quarter and a sixth idle, and 16384 little, for 512 MiB: ``workspace_bytes=2 * 16384**2``
    buys that.
    """
    single_logits: int = 384 * 384
    """Up to this many logits (576 KiB) there is no sweep, which would spend more on calls than on arithmetic: plain mean
    losses on the CPU run as a single tile, all others as the dense reference."""
    gathered_bytes: int = 256 * 2**20
    """``strategy="auto"`` gathers while all ranks' features and their accumulators take at most this much on each (256 MiB)."""
    reused_bytes: int = 8 * 2**20
    """Widened copies of both sides up to this size live in memory that the thread's next call uses again. The C library gives
    pieces of that size back to the system after each step, and the page faults of the next would cost more than the copy."""
    kept_logits: int | None = None
    """Exponentials that stay between the passes; None: as many as the workspace has room for."""


_DEFAULTS = Limits()
_changes: list[dict[str, Any]] = []  # of the contexts that are open, in the order in which they were entered
_in_force = _DEFAULTS
_lock = threading.Lock()


def limits() -> Limits:
    """Those in force."""
    return _in_force


@contextmanager
def using(**changes: Any) -> Iterator[Limits]:
    """Put other limits in force while the context is open: in all threads, since a backward pass may run in another one."""
    _update(lambda: _changes.append(changes))
    try:
        yield _in_force
    finally:
        _update(lambda: _changes.remove(changes))


def _update(change: Callable[[], None]) -> None:
    """Contexts of several threads may overlap, and end in any order."""
    global _in_force  # noqa: PLW0603  one set for all threads
    with _lock:
        change()
        _in_force = replace(_DEFAULTS, **{name: value for given in _changes for name, value in given.items()})
