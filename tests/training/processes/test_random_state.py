"""The state of the global random generators: through a checkpoint, and seeded."""

from __future__ import annotations

import random
from pathlib import Path

import numpy as np
import pytest
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


def test_every_gpu_is_restored_here_and_the_current_one_from_a_checkpoint(monkeypatch: pytest.MonkeyPatch):
    states, restored = [torch.tensor([1]), torch.tensor([2])], {}
    for name, value in {
        "is_initialized": lambda: True,
        "is_available": lambda: True,
        "current_device": lambda: 1,
        "get_rng_state_all": lambda: states,
        "set_rng_state": lambda state, device: restored.update({str(device): state}),
    }.items():
        monkeypatch.setattr(torch.cuda, name, value)
    state = RandomState.capture()
    state.restore()
    assert restored == {"cuda:0": states[0], "cuda:1": states[1]}
    restored.clear()
    plain = state.plain()
    assert plain["cuda"] is states[1]
    RandomState.from_plain(plain).restore()
    assert restored == {"cuda": states[1]}  # whichever is the current one there
