"""The Lightning module of the examples takes the steps of a plain loop with the dense loss."""

from __future__ import annotations

import copy
import importlib.util
import math
from pathlib import Path
from types import ModuleType

import pytest
import torch
import torch.nn.functional as F
from helpers import error
from peer_imports import peer
from torch import Tensor
from torch.utils.data import DataLoader, TensorDataset

pytestmark = pytest.mark.usefixtures("one_thread")
EXAMPLE = Path(__file__).resolve().parents[2] / "examples" / "lightning_module.py"


@pytest.fixture
def example() -> ModuleType:
    peer("pytorch_lightning")
    spec = importlib.util.spec_from_file_location("lightning_module_example", EXAMPLE)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def dense_loss(images: Tensor, texts: Tensor, scale: Tensor) -> Tensor:
    scores = scale * F.normalize(images, dim=1) @ F.normalize(texts, dim=1).T
    labels = torch.arange(len(scores))
    return (F.cross_entropy(scores, labels) + F.cross_entropy(scores.T, labels)) / 2


def plain_steps(model: torch.nn.Module, batches: DataLoader, epochs: int) -> list[float]:
    optimizer, losses = model.configure_optimizers(), []
    for _ in range(epochs):
        for images, texts in batches:
            loss = dense_loss(model.image(images), model.text(texts), model.log_scale.exp())
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            with torch.no_grad():
                model.log_scale.clamp_(0, math.log(100))
            losses.append(loss.item())
    return losses


def test_steps_are_those_of_a_plain_loop(example: ModuleType):
    torch.manual_seed(0)
    pairs = torch.randn(60, example.IMAGE).double(), torch.randn(60, example.TEXT).double()
    batches = DataLoader(TensorDataset(*pairs), batch_size=20)
    model = example.TwoTowers().double()
    start = torch.cat([p.detach().flatten().clone() for p in model.parameters()])
    plain = copy.deepcopy(model)
    trainer = example.trainer(max_epochs=2)
    trainer.fit(model, batches)
    losses = plain_steps(plain, batches, epochs=2)
    assert trainer.callback_metrics["loss"].item() == pytest.approx(
        sum(losses[3:]) / 3, rel=1e-6
    )  # Lightning's mean is float32
    got, want = (torch.cat([p.detach().flatten() for p in m.parameters()]) for m in (model, plain))
    assert error(got - start, want - start) < 1e-9


def test_the_scale_is_clamped(example: ModuleType):
    model = example.TwoTowers()
    with torch.no_grad():
        model.log_scale.fill_(5.0)
    model.on_train_batch_end()
    assert model.log_scale.item() == pytest.approx(math.log(100))
