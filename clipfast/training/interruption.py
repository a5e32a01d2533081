"""SIGTERM and SIGINT ask for an orderly end: finish the step, write a checkpoint, leave."""

from __future__ import annotations

import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType
from typing import TypeVar

from clipfast.training.processes import World

T = TypeVar("T")
SIGNALS = (signal.SIGTERM, signal.SIGINT)


class Interruption:
    """``signal`` is the first one that came, or None."""

    def __init__(self) -> None:
        self.signal: signal.Signals | None = None

    def __call__(self, number: int, frame: FrameType | None) -> None:
        self.signal = self.signal or signal.Signals(number)


@contextmanager
def interruption() -> Iterator[Interruption]:
    """Note signals instead of dying of them. Outside the main thread, where Python allows no handlers, nothing is noted."""
    noted = Interruption()
    if threading.current_thread() is not threading.main_thread():
        yield noted
        return
    before = {number: signal.signal(number, noted) for number in SIGNALS}
    try:
        yield noted
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def until_interrupted(batches: Iterator[T], noted: Interruption, world: World) -> Iterator[T]:
    """The batches, up to the first before which any process was asked to stop: all processes end at the same one.

    A signal to the whole process group ends the data's workers too; their failure is then part of the interruption.
    """
    while True:
        failure, batch = None, None
        try:
            batch = next(batches, None)
        except RuntimeError as error:
            failure = error
        if failure is not None and noted.signal is None:
            raise failure
        if world.any(noted.signal is not None) or batch is None:
            return
        yield batch
