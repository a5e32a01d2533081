"""Everything that the next step depends on, into a checkpoint and back."""

from __future__ import annotations

import math
from dataclasses import asdict, dataclass, field
from typing import Any

import torch
from torch.optim.swa_utils import AveragedModel

from clipfast.models import CLIP
from clipfast.training.processes import World
from clipfast.training.random_state import random_state

NAMED = 1000  # skipped pairs that are remembered by name; all are counted


@dataclass
class Progress:
    """Where a run is: ``step`` optimizer steps done, the last ``position`` of them in epoch ``epoch``.

    ``skipped`` counts pairs that could not be read, ``named`` has the reason of the first of them by name.
    ``overflows`` counts steps left out because float16 gradients overflowed, ``overflows_in_a_row`` the last of them.
    ``metrics`` are those of the last evaluation.
    """

    step: int = 0
    epoch: int = 0
    position: int = 0
    loss: float = math.nan
    skipped: int = 0
    named: dict[str, str] = field(default_factory=dict)
    overflows: int = 0
    overflows_in_a_row: int = 0
    metrics: dict[str, float] = field(default_factory=dict)

    def advance(self, steps_per_epoch: int, loss: float, applied: bool) -> None:
        self.step += 1
        self.position += 1
        self.loss = loss
        self.overflows += not applied
        self.overflows_in_a_row = 0 if applied else self.overflows_in_a_row + 1
        if self.position == steps_per_epoch:
            self.epoch, self.position = self.epoch + 1, 0

    def leave_out(self, where: str, why: str) -> None:
        self.skipped += 1
        if len(self.named) < NAMED:
            self.named.setdefault(where, why)


@dataclass
class TrainState:
    """What changes in a run. The schedule and the data's order are functions of ``progress``."""

    model: CLIP
    optimizer: torch.optim.Optimizer
    scaler: torch.amp.GradScaler
    average: AveragedModel | None
    progress: Progress

    @property
    def result(self) -> CLIP:
        """What is evaluated, and written at the end: the average of the weights where one is kept."""
        model = self.model if self.average is None else self.average.module
        assert isinstance(model, CLIP)
        return model

    def contents(self, world: World) -> dict[str, Any]:
        """Tensors and plain values. Every process must call it: each has random numbers of its own."""
        return {
            "clip_config": asdict(self.model.config),
            "state_dict": self.model.state_dict(),
            "optimizer": self.optimizer.state_dict(),
            "scaler": self.scaler.state_dict(),
            "average": None if self.average is None else self.average.state_dict(),
            "progress": asdict(self.progress),
            "random": world.gather(random_state()),
        }

    def restore(self, contents: dict[str, Any]) -> None:
        """All but the random numbers, which ``continue_random`` sets when nothing but the steps is left to use any."""
        self.model.load_state_dict(contents["state_dict"])
        self.optimizer.load_state_dict(contents["optimizer"])
        if contents["scaler"]:  # empty where the precision was another one, without scaling
            self.scaler.load_state_dict(contents["scaler"])
        if self.average is not None:
            self.average.load_state_dict(contents["average"])
        self.progress = Progress(**contents["progress"])
