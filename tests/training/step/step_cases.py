"""A tiny model, and gradients for it."""

from __future__ import annotations

import torch
from tiny_run import TEXT, VISION
from torch import Tensor

from clipfast.models import CLIP, ClipConfig, TextConfig, VisionConfig, create_model


def tiny(**changes: str) -> CLIP:
    torch.manual_seed(0)
    return create_model(ClipConfig(6, VisionConfig(**VISION), TextConfig(**TEXT), **changes))


def with_gradients(model: CLIP, value: float) -> list[Tensor]:
    for parameter in model.parameters():
        parameter.grad = torch.full_like(parameter, value)
    return [p.grad for p in model.parameters() if p.grad is not None]
