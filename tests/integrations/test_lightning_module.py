"""The Lightning module of the examples takes the steps of a plain loop with the dense loss."""

from __future__ import annotations

import math
from types import ModuleType

import lightning_runs
import pytest
import torch
from helpers import error
from peer_imports import peer
from torch.utils.data import DataLoader

pytestmark = pytest.mark.usefixtures("one_thread")


@pytest.fixture
def example() -> ModuleType:
    peer("pytorch_lightning")
    return lightning_runs.example()


def test_steps_are_those_of_a_plain_loop(example: ModuleType):
    (model, pairs), (plain, _) = (lightning_runs.model_and_pairs(example) for _ in range(2))
    start, batches, trainer = lightning_runs.flat(model), DataLoader(pairs, batch_size=20), example.trainer(max_epochs=2)
    trainer.fit(model, batches)
    losses = lightning_runs.plain_steps(plain, batches, epochs=2)
    logged = trainer.callback_metrics["loss"].item()  # the mean over the last epoch, which Lightning takes in float32
    assert logged == pytest.approx(sum(losses[3:]) / 3, rel=1e-6)
    assert error(lightning_runs.flat(model) - start, lightning_runs.flat(plain) - start) < 1e-9


def test_the_scale_is_clamped(example: ModuleType):
    model = example.TwoTowers()
    with torch.no_grad():
        model.log_scale.fill_(5.0)
    model.on_train_batch_end()
    assert model.log_scale.item() == pytest.approx(math.log(100))
