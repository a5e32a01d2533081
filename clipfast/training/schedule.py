"""The learning rate of a step: linear warm-up, then half a cosine (Loshchilov & Hutter, 2017)."""

from __future__ import annotations

import math
from dataclasses import dataclass

from torch.optim import Optimizer

PAPER_WARMUP = 2000  # Radford et al. (2021), table 18


@dataclass(frozen=True)
class CosineSchedule:
    """``schedule(step)`` for step 0 to ``total_steps - 1``: nothing but the step decides, so nothing has to be saved.

    Step 0 has 1/``warmup_steps`` of ``peak``; the step after the last one would have ``final``.
    """

    peak: float
    final: float
    warmup_steps: int
    total_steps: int

    def __post_init__(self) -> None:
        if self.warmup_steps >= self.total_steps:
            raise ValueError(
                f"optimizer.warmup_steps is {self.warmup_steps}, but the whole run has {self.total_steps} steps; warm up for "
                "less of it, or train for more epochs"
            )

    def __call__(self, step: int) -> float:
        if step < self.warmup_steps:
            return self.peak * (step + 1) / self.warmup_steps
        progress = (step - self.warmup_steps) / (self.total_steps - self.warmup_steps)
        return self.final + (self.peak - self.final) * (1 + math.cos(math.pi * progress)) / 2

    def set(self, optimizer: Optimizer, step: int) -> float:
        """Give all parameters the rate of ``step``, and return it."""
        rate = self(step)
        for group in optimizer.param_groups:
            group["lr"] = rate
        return rate


def default_warmup(total_steps: int) -> int:
    """The paper's, or a tenth of a shorter run."""
    return min(PAPER_WARMUP, total_steps // 10)
