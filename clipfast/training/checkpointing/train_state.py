"""Everything that the next step depends on; into a checkpoint and back."""

from __future__ import annotations

import math
from dataclasses import asdict, dataclass, field
from typing import Any

import torch
from torch.optim.swa_utils import AveragedModel

from clipfast.models import CLIP
from clipfast.training.processes.random_state import RandomState
from clipfast.training.processes.world import World

MAX_NAMED = 1000  # skipped pairs that are remembered by name; all are counted


@dataclass
class Progress:
    """Where a run is: after ``step`` optimizer steps, the last ``position`` of them in epoch ``epoch``.

    ``loss``: the last step's. ``skipped`` counts the pairs that could not be read; ``named`` has for the first of them the
    place and the reason. ``overflows`` counts the steps without effect because float16 gradients overflowed,
    ``overflows_in_a_row`` those since the last step with effect. ``metrics``: the last evaluation's.
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
        """Count a step; ``applied`` says whether it changed the weights."""
        self.step += 1
        self.position += 1
        self.loss = loss
        self.overflows += not applied
        self.overflows_in_a_row = 0 if applied else self.overflows_in_a_row + 1
        if self.position == steps_per_epoch:
            self.epoch, self.position = self.epoch + 1, 0

    def skip(self, where: str, why: str) -> None:
        """Count a pair that could not be read, and remember it if it is among the first."""
        self.skipped += 1
        if len(self.named) < MAX_NAMED:
            self.named.setdefault(where, why)

    def set_metrics(self, metrics: dict[str, float]) -> None:
        self.metrics = metrics


@dataclass
class TrainState:
    """What changes in a run; the learning rate and the order of the data follow from ``progress``."""

    model: CLIP
    optimizer: torch.optim.Optimizer
    scaler: torch.amp.GradScaler
    average: AveragedModel | None
    progress: Progress

    @property
    def result(self) -> CLIP:
        """The model that is evaluated, and written at the end: with the average of the weights if one is kept."""
        model = self.model if self.average is None else self.average.module
        assert isinstance(model, CLIP)
        return model

    def contents(self, world: World) -> dict[str, Any]:
        """Tensors and plain values. Every process must call this, since each has a random state of its own."""
        return {
            "clip_config": asdict(self.model.config),
            "state_dict": self.model.state_dict(),
            "optimizer": self.optimizer.state_dict(),
            "scaler": self.scaler.state_dict(),
            "average": None if self.average is None else self.average.state_dict(),
            "progress": asdict(self.progress),
            "random": world.gather(RandomState.capture().plain()),
        }

    def restore(self, contents: dict[str, Any]) -> None:
        """Everything but the random state, which ``continue_random`` restores later: only steps may use random numbers then."""
        self.model.load_state_dict(contents["state_dict"])
        self.optimizer.load_state_dict(contents["optimizer"])
        if contents["scaler"]:  # empty if the checkpoint's precision was one without scaling
            self.scaler.load_state_dict(contents["scaler"])
        if self.average is not None:
            self.average.load_state_dict(contents["average"])
        self.progress = Progress(**contents["progress"])
