"""What a run tells while it goes on: the log, the progress bar, the pairs that were left out."""

from __future__ import annotations

import traceback
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext

from clipfast.data import PairBatch
from clipfast.training.config import TrainConfig
from clipfast.training.log import Log, opened
from clipfast.training.processes import World
from clipfast.training.progress_bar import Show, Speed, peak_memory, progress_bar
from clipfast.training.state import TrainState
from clipfast.training.update import Outcome


class Record:
    """Gathers from all processes, and writes in the first. ``log`` is None in the others."""

    def __init__(
        self, state: TrainState, world: World, steps_per_epoch: int, interval: int, log: Log | None, show: Show
    ) -> None:
        self.state, self.world, self.log, self.show = state, world, log, show
        self.steps_per_epoch, self.interval = steps_per_epoch, interval
        self.speed = Speed()
        self._skipped: list[tuple[str, str]] = []

    def step(self, outcome: Outcome, batch: PairBatch) -> None:
        """After each step; every ``interval`` steps the processes exchange what they have to tell."""
        progress = self.state.progress
        self.speed.add(len(batch.images) * self.world.size)
        self._skipped += batch.skipped
        rate, memory = self.speed.rate(), peak_memory(self.world.device)
        self.show(progress.step, f"loss {outcome.loss:.4f}  {rate:.0f} pairs/s  {memory / 2**20:.0f} MiB")
        if progress.step % self.interval == 0:
            self.settle()
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

    def settle(self) -> None:
        """Count and name the pairs that were left out in any process since the last time. Every process must call it."""
        for skipped in self.world.gather(self._skipped):
            for where, why in skipped:
                self.state.progress.leave_out(where, why)
                self.write("skipped", where=where, why=why)
        self._skipped = []

    def end(self, event: str) -> None:
        """The last line: what the whole run came to."""
        progress = self.state.progress
        totals = {"skipped": progress.skipped, "named": progress.named, "overflows": progress.overflows}
        self.write(event, loss=progress.loss, metrics=progress.metrics, **totals)

    def write(self, event: str, **values: object) -> None:
        if self.log is not None:
            self.log.write(event, self.state.progress.step, **values)


@contextmanager
def recording(state: TrainState, world: World, config: TrainConfig, steps_per_epoch: int) -> Iterator[Record]:
    """The record of a run that goes on where ``state`` is."""
    done, interval = state.progress.step, config.log.every_steps
    log = opened(config.folder, done, config.log.tensorboard) if world.first else nullcontext()
    with log as lines, progress_bar(config.epochs * steps_per_epoch, done, world.first, interval) as show:
        record = Record(state, world, steps_per_epoch, interval, lines, show)
        try:
            yield record
        except Exception as error:
            record.write("failed", error=str(error), traceback=traceback.format_exc())
            raise
