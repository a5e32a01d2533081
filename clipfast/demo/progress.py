"""A progress bar on a terminal; ten lines in a log."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from clipfast.demo.extras import require


@contextmanager
def progress(steps: int) -> Iterator[Callable[[int, float], None]]:
    """Gives ``after_step(pairs in the step, loss)``."""
    show = _bar if require("rich.console").Console().is_terminal else _lines
    with show(steps) as after_step:
        yield after_step


@contextmanager
def _bar(steps: int) -> Iterator[Callable[[int, float], None]]:
    rich = require("rich.progress")
    text = rich.TextColumn("loss {task.fields[loss]:.3f}  {task.fields[speed]:.0f} pairs/s  remaining")
    columns = [rich.TextColumn("training"), rich.BarColumn(), rich.MofNCompleteColumn(), text, rich.TimeRemainingColumn()]
    meter = _Meter()
    with rich.Progress(*columns) as bar:
        task = bar.add_task("training", total=steps, loss=float("nan"), speed=0.0)

        def after_step(pairs: int, loss: float) -> None:
            bar.update(task, advance=1, loss=loss, speed=meter.add(pairs))

        yield after_step


@contextmanager
def _lines(steps: int) -> Iterator[Callable[[int, float], None]]:
    meter, every = _Meter(), max(1, steps // 10)

    def after_step(pairs: int, loss: float) -> None:
        speed = meter.add(pairs)
        if meter.steps % every == 0 or meter.steps == steps:
            left = (steps - meter.steps) * meter.seconds / meter.steps
            print(f"  step {meter.steps:4d} of {steps}: loss {loss:.3f}, {speed:.0f} pairs/s, {left:.0f} s left", flush=True)

    yield after_step


class _Meter:
    """Counts steps and pairs, and gives the pairs per second since it began."""

    def __init__(self) -> None:
        self.steps, self.pairs, self.seconds = 0, 0, 0.0
        self._start = time.perf_counter()

    def add(self, pairs: int) -> float:
        self.steps += 1
        self.pairs += pairs
        self.seconds = time.perf_counter() - self._start
        return self.pairs / self.seconds
