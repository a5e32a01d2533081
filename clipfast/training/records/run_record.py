"""What a run tells while it goes on: lines in its log, a progress bar, and the pairs that could not be read."""

from __future__ import annotations

import sys
import time
import traceback
from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext

import torch

from clipfast.common.extras import require
from clipfast.data import PairBatch
from clipfast.training.checkpointing.train_state import TrainState
from clipfast.training.processes.world import World
from clipfast.training.records.run_log import Log, open_log
from clipfast.training.settings.train_config import TrainConfig
from clipfast.training.step.weight_update import Outcome

Show = Callable[[int, str], None]


class RunRecord:
    """Gathers from all processes, and writes in the first one; ``log`` is None in the others."""

    def __init__(
        self, state: TrainState, world: World, steps_per_epoch: int, interval: int, log: Log | None, show: Show
    ) -> None:
        self.state, self.world, self.log, self.show = state, world, log, show
        self.steps_per_epoch, self.interval = steps_per_epoch, interval
        self.speed = Speed()
        self._skipped: list[tuple[str, str]] = []

    def step(self, outcome: Outcome, batch: PairBatch) -> None:
        """Show a step; every ``interval`` steps gather from all processes and write a line."""
        progress = self.state.progress
        self.speed.add(len(batch.images) * self.world.size)
        self._skipped += batch.skipped
        rate, memory = self.speed.rate(), peak_memory(self.world.device)
        self.show(progress.step, f"loss {outcome.loss:.4f}  {rate:.0f} pairs/s  {memory / 2**20:.0f} MiB")
        if progress.step % self.interval == 0:
            self.gather_skipped()
            self.write(
                "step",
                epoch=round(progress.step / self.steps_per_epoch, 4),
                loss=outcome.loss,
                learning_rate=self.state.optimizer.param_groups[0]["lr"],
                logit_scale=self.state.model.logit_scale.exp().item(),
                gradient_norm=outcome.gradient_norm,
                pairs_per_second=rate,
                memory_bytes=memory,
                skipped=progress.skipped,
                overflows=progress.overflows,
            )
            self.speed.restart()

    def gather_skipped(self) -> None:
        """Count and name the pairs that any process could not read since the last call. Every process must call this."""
        for skipped in self.world.gather(self._skipped):
            for where, why in skipped:
                self.state.progress.skip(where, why)
                self.write("skipped", where=where, why=why)
        self._skipped = []

    def end(self, event: str) -> None:
        """The last line, with the totals of the whole run."""
        progress = self.state.progress
        totals = {"skipped": progress.skipped, "named": progress.named, "overflows": progress.overflows}
        self.write(event, loss=progress.loss, metrics=progress.metrics, **totals)

    def write(self, event: str, **values: object) -> None:
        if self.log is not None:
            self.log.write(event, self.state.progress.step, **values)


class Speed:
    """Pairs per second since the last ``restart``, without the time inside ``pause``."""

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


@contextmanager
def recording(state: TrainState, world: World, config: TrainConfig, steps_per_epoch: int) -> Iterator[RunRecord]:
    """The record of a run that goes on from ``state``; it has the error that ends the run."""
    done, interval = state.progress.step, config.log.every_steps
    log = open_log(config.folder, done, config.log.tensorboard) if world.first else nullcontext()
    with log as lines, progress_bar(config.epochs * steps_per_epoch, done, world.first, interval) as show:
        record = RunRecord(state, world, steps_per_epoch, interval, lines, show)
        try:
            yield record
        except Exception as error:
            record.write("failed", error=str(error), traceback=traceback.format_exc())
            raise


@contextmanager
def progress_bar(total: int, done: int, enabled: bool, interval: int) -> Iterator[Show]:
    """``show(step, text)`` after each step: a bar on a terminal, elsewhere a line every ``interval`` steps."""
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


def _clock(seconds: float) -> str:
    hours, rest = divmod(round(seconds), 3600)
    return f"{hours}:{rest // 60:02d}:{rest % 60:02d}"


def peak_memory(device: torch.device) -> int:
    """Peak bytes: torch's on a GPU, the whole process's on the CPU, where Windows does not tell and gets 0."""
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device)
    if sys.platform == "win32":
        return 0
    import resource

    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if sys.platform == "darwin" else peak * 1024
