"""SIGTERM and SIGINT ask for an orderly end: finish the step, write a checkpoint, leave."""

from __future__ import annotations

import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType
from typing import TypeVar

from clipfast.training.processes.world import World

T = TypeVar("T")
SIGNALS = (signal.SIGTERM, signal.SIGINT)


class Interruption:
    """A signal handler; ``signal`` is the first signal that came, or None."""

    def __init__(self) -> None:
        self.signal: signal.Signals | None = None

    def __call__(self, number: int, frame: FrameType | None) -> None:
        self.signal = self.signal or signal.Signals(number)


@contextmanager
def noting_signals() -> Iterator[Interruption]:
    """Note signals inside instead of dying of them; only in the main thread, since Python allows handlers nowhere else."""
    interruption = Interruption()
    if threading.current_thread() is not threading.main_thread():
        yield interruption
        return
    before = {number: signal.signal(number, interruption) for number in SIGNALS}
    try:
        yield interruption
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def until_interrupted(batches: Iterator[T], interruption: Interruption, world: World) -> Iterator[T]:
    """``batches`` until any process was asked to stop; all processes end before the same batch.

    A signal to the whole process group ends the data's workers too; their failure is then part of the interruption.
    """
    while True:
        failure, batch = None, None
        try:
            batch = next(batches, None)
        except RuntimeError as error:
            failure = error
        if failure is not None and interruption.signal is None:
            raise failure
        if world.any(interruption.signal is not None) or batch is None:
            return
        yield batch
