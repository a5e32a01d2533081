"""What a running training shows: a bar on a terminal, lines elsewhere, and how fast it is."""

from __future__ import annotations

import resource
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import torch

from clipfast.common.extras import require

Show = Callable[[int, str], None]


@contextmanager
def progress_bar(total: int, done: int, enabled: bool, interval: int) -> Iterator[Show]:
    """``show(step, text)`` after each step; without a terminal it prints a line every ``interval`` steps."""
    if not enabled:
        yield lambda step, text: None
    elif require("rich.console", "the progress bar", extra="train").Console().is_terminal:
        with _bar(total, done) as show:
            yield show
    else:
        began = time.perf_counter()

        def line(step: int, text: str) -> None:
            if step % interval == 0 or step == total:
                left = (time.perf_counter() - began) / (step - done) * (total - step)
                print(f"step {step} of {total}  {text}  {_clock(left)} left", flush=True)

        yield line


@contextmanager
def _bar(total: int, done: int) -> Iterator[Show]:
    rich = require("rich.progress", "the progress bar", extra="train")
    columns = [rich.BarColumn(), rich.MofNCompleteColumn(), rich.TextColumn("{task.fields[text]}"), rich.TimeRemainingColumn()]
    with rich.Progress(*columns) as bar:
        task = bar.add_task("training", total=total, completed=done, text="")
        yield lambda step, text: bar.update(task, completed=step, text=text)


class Speed:
    """Pairs a second between two looks; ``pause`` leaves out the time of what is no training."""

    def __init__(self) -> None:
        self._pairs, self._began = 0, time.perf_counter()

    def add(self, pairs: int) -> None:
        self._pairs += pairs

    def rate(self) -> float:
        return self._pairs / max(time.perf_counter() - self._began, 1e-9)

    def restart(self) -> None:
        self._pairs, self._began = 0, time.perf_counter()

    @contextmanager
    def pause(self) -> Iterator[None]:
        before = time.perf_counter()
        yield
        self._began += time.perf_counter() - before


def peak_memory(device: torch.device) -> int:
    """Bytes: torch's on a GPU, the whole process's on the CPU."""
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device)
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if sys.platform == "darwin" else peak * 1024


def _clock(seconds: float) -> str:
    hours, rest = divmod(round(seconds), 3600)
    return f"{hours}:{rest // 60:02d}:{rest % 60:02d}"
