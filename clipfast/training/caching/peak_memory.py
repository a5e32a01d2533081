"""Peak memory of a step, split into the towers and the loss."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import NamedTuple

import torch


class PeakMemory(NamedTuple):
    """Peak bytes above what was allocated when the step began, on the CUDA device where that is largest.

    ``towers``: both encodings and the backward passes of the second (this includes the cached features, and gradients of the
    parameters). ``loss``: the losses and their gradients at the features.
    """

    towers: int
    loss: int

    def __str__(self) -> str:
        return f"towers {self.towers / 2**20:.1f} MiB, loss {self.loss / 2**20:.1f} MiB"


class Meter:
    """Reads CUDA's allocator around the phases of a step, which resets the peak statistics of ``torch.cuda``."""

    def __init__(self, enabled: bool) -> None:
        used = enabled and torch.cuda.is_initialized()
        self.devices = list(range(torch.cuda.device_count())) if used else []
        self.before = {d: torch.cuda.memory_allocated(d) for d in self.devices}
        self.peaks = {"towers": 0, "loss": 0}

    @contextmanager
    def phase(self, name: str) -> Iterator[None]:
        for device in self.devices:
            torch.cuda.reset_peak_memory_stats(device)
        yield
        for device in self.devices:
            peak = torch.cuda.max_memory_allocated(device) - self.before[device]
            self.peaks[name] = max(self.peaks[name], peak)

    def result(self) -> PeakMemory | None:
        return PeakMemory(**self.peaks) if self.devices else None
