"""Forward and backward of one batch: both towers, the fused loss over all processes, gradients."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel

from clipfast.losses import clip_loss, siglip_loss
from clipfast.models import CLIP
from clipfast.training.caching.cached_step import CachedStep, StepResult
from clipfast.training.caching.replay import without_autocast
from clipfast.training.processes.world import World

Pair = tuple[Tensor, Tensor]
Step = Callable[[Pair], StepResult]


class BothTowers(nn.Module):
    """(images, tokens) -> image features, text features, scale, and the bias of a sigmoid model.

    One call returns all that the loss needs, so that DDP finds every parameter in the pass that exchanges gradients.
    """

    def __init__(self, model: CLIP) -> None:
        super().__init__()
        self.model = model

    def forward(self, batch: Pair) -> tuple[Tensor, ...]:
        images, tokens = batch
        features = self.model.encode_image(images), self.model.encode_text(tokens)
        bias = self.model.logit_bias
        return (*features, self.model.logit_scale.exp(), *(() if bias is None else (bias,)))


class WholeStep:
    """The step of a batch that fits into memory, called as ``CachedStep`` is."""

    def __init__(self, towers: nn.Module, loss: Callable[..., Tensor], scaler: torch.amp.GradScaler) -> None:
        self.towers, self.loss, self.scaler = towers, loss, scaler

    def __call__(self, batch: Pair) -> StepResult:
        features = self.towers(batch)
        loss = self.loss(features)
        with without_autocast():
            self.scaler.scale(loss).backward()
        return StepResult(loss.detach(), {"loss": loss.detach()}, (tuple(f.detach() for f in features),), None)


def build_step(model: CLIP, scaler: torch.amp.GradScaler, world: World, chunk_size: int | None, compiled: bool) -> Step:
    """``step((images, tokens))`` leaves gradients in ``.grad``; its loss is that of all processes' pairs together.

    With a ``chunk_size`` pairs are encoded that many at a time (gradient caching).
    """
    towers: nn.Module = BothTowers(model)
    if compiled:
        towers.compile()
    if world.size > 1:
        towers = DistributedDataParallel(towers)
    loss = loss_across(world)
    return WholeStep(towers, loss, scaler) if chunk_size is None else CachedStep([towers], loss, chunk_size, scaler=scaler)


def loss_across(world: World) -> Callable[[tuple[Tensor, ...]], Tensor]:
    """The loss of what ``BothTowers`` returns: softmax, or sigmoid if there is a bias. Negatives come from all processes."""
    options: dict[str, Any] = {} if world.group is None else {"group": world.group}

    def loss(features: tuple[Tensor, ...]) -> Tensor:
        fused = clip_loss if len(features) == 3 else siglip_loss
        value = fused(*features, normalize=True, **options)
        assert isinstance(value, Tensor)
        return value

    return loss
