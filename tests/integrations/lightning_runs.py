"""The Lightning module of the examples, and a plain loop with the dense loss."""

from __future__ import annotations

import importlib.util
import math
from pathlib import Path
from types import ModuleType

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.utils.data import DataLoader, TensorDataset

EXAMPLE = Path(__file__).resolve().parents[2] / "examples" / "lightning_module.py"


def example() -> ModuleType:
    """The example's script as a module, if Lightning can be imported."""
    spec = importlib.util.spec_from_file_location("lightning_module_example", EXAMPLE)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def model_and_pairs(module: ModuleType) -> tuple[torch.nn.Module, TensorDataset]:
    """The same weights and the same 60 pairs each time, in float64."""
    torch.manual_seed(0)
    pairs = TensorDataset(torch.randn(60, module.IMAGE).double(), torch.randn(60, module.TEXT).double())
    return module.TwoTowers().double(), pairs


def flat(model: torch.nn.Module) -> Tensor:
    return torch.cat([p.detach().flatten().clone() for p in model.parameters()])


def plain_steps(model: torch.nn.Module, batches: DataLoader, epochs: int) -> list[float]:
    """The loop that Lightning runs with the module, written out."""
    optimizer, losses = model.configure_optimizers(), []
    for _ in range(epochs):
        for images, texts in batches:
            loss = _dense_loss(model.image(images), model.text(texts), model.log_scale.exp())
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            with torch.no_grad():
                model.log_scale.clamp_(0, math.log(100))
            losses.append(loss.item())
    return losses


def _dense_loss(images: Tensor, texts: Tensor, scale: Tensor) -> Tensor:
    scores = scale * F.normalize(images, dim=1) @ F.normalize(texts, dim=1).T
    labels = torch.arange(len(scores))
    return (F.cross_entropy(scores, labels) + F.cross_entropy(scores.T, labels)) / 2
