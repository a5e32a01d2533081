"""From gradients to new weights: unscale, clip, step the optimizer, clamp the logit scale, update the average."""

from __future__ import annotations

import math
from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn.utils import clip_grads_with_norm_, get_total_norm
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn

from clipfast.models import CLIP


class Outcome(NamedTuple):
    """``loss`` and the ``gradient_norm`` before clipping; ``applied`` is false if the weights stayed as they were."""

    loss: float
    gradient_norm: float
    applied: bool


class Update:
    """One optimizer step of ``model``; a loss or gradient that is not finite changes nothing."""

    def __init__(
        self,
        model: CLIP,
        optimizer: torch.optim.Optimizer,
        scaler: torch.amp.GradScaler,
        average: AveragedModel | None = None,
        max_gradient_norm: float | None = None,
    ) -> None:
        self.model, self.optimizer, self.scaler = model, optimizer, scaler
        self.average, self.max_gradient_norm = average, max_gradient_norm

    def __call__(self, loss: Tensor) -> Outcome:
        self.scaler.unscale_(self.optimizer)
        parameters = [p for p in self.model.parameters() if p.grad is not None]
        norm = get_total_norm([p.grad for p in parameters if p.grad is not None])
        value, size = torch.stack([loss.double(), norm.double()]).tolist()  # the only wait for the device in a step
        applied = math.isfinite(value) and math.isfinite(size)
        if applied and self.max_gradient_norm is not None:  # clipping would spread a NaN over all gradients
            clip_grads_with_norm_(parameters, self.max_gradient_norm, norm)
        if applied or self.scaler.is_enabled():
            self.scaler.step(self.optimizer)  # does nothing itself where gradients overflowed
            self.scaler.update()
        if applied:
            self.model.clamp_logit_scale()
            if self.average is not None:
                self.average.update_parameters(self.model)
        return Outcome(value, size, applied)


def build_average(model: CLIP, decay: float | None) -> AveragedModel | None:
    """An exponential moving average (EMA) of the weights, or None without a ``decay``."""
    if decay is None:
        return None
    return AveragedModel(model, multi_avg_fn=get_ema_multi_avg_fn(decay), use_buffers=True)
