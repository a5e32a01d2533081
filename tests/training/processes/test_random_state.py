"""The state of the global random generators: through a checkpoint, and seeded."""

from __future__ import annotations

import random
from pathlib import Path

import numpy as np
import torch

from clipfast.training.processes.random_state import RandomState, seed_all


def test_random_numbers_go_on_where_they_were(tmp_path: Path):
    def draw() -> tuple[float, float, float]:
        return torch.rand(1).item(), np.random.normal(), random.random()

    seed_all(3)
    first = draw()
    torch.save(RandomState.capture().plain(), tmp_path / "state.pt")
    want = draw()
    RandomState.from_plain(torch.load(tmp_path / "state.pt", weights_only=True)).restore()
    assert draw() == want
    seed_all(3)
    assert draw() == first
