"""AdamW with the CLIP paper's parameter groups and numbers, and its learning rate: linear warm-up, then half a cosine."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch

from clipfast.models import CLIP, ResNetConfig
from clipfast.training.settings.train_config import OptimizerConfig

# Radford et al. (2021), table 18
TRANSFORMER_BETAS, TRANSFORMER_EPS = (0.9, 0.98), 1e-6
RESNET_BETAS, RESNET_EPS = (0.9, 0.999), 1e-8
PAPER_WARMUP = 2000


def build_optimizer(model: CLIP, config: OptimizerConfig) -> torch.optim.AdamW:
    """AdamW over the parameters that require a gradient. Matrices decay.

    Parameters with fewer than two dimensions do not: gains, biases, the class token and the logit scale (section 2.5: "all
    weights that are not gains or biases").
    """
    trained = [p for p in model.parameters() if p.requires_grad]
    groups = [
        {"params": [p for p in trained if p.ndim >= 2], "weight_decay": config.weight_decay},
        {"params": [p for p in trained if p.ndim < 2], "weight_decay": 0.0},
    ]
    resnet = isinstance(model.config.vision, ResNetConfig)
    betas = config.betas or (RESNET_BETAS if resnet else TRANSFORMER_BETAS)
    eps = config.eps or (RESNET_EPS if resnet else TRANSFORMER_EPS)
    return torch.optim.AdamW(groups, lr=config.learning_rate, betas=betas, eps=eps, fused=True)


@dataclass(frozen=True)
class CosineSchedule:
    """``schedule(step)`` is the learning rate of step 0 to ``total_steps - 1`` (Loshchilov & Hutter, 2017).

    It depends on the step alone, so that a checkpoint need not have it. Step 0 has 1/``warmup_steps`` of ``peak``; a step
    after the last one would have ``final``.
    """

    peak: float
    final: float
    warmup_steps: int
    total_steps: int

    def __post_init__(self) -> None:
        if self.warmup_steps >= self.total_steps:
            raise ValueError(
                f"optimizer.warmup_steps must be less than the whole run's {self.total_steps} steps; got {self.warmup_steps}; "
                "warm up for less of it, or train for more epochs"
            )

    def __call__(self, step: int) -> float:
        if step < self.warmup_steps:
            return self.peak * (step + 1) / self.warmup_steps
        progress = (step - self.warmup_steps) / (self.total_steps - self.warmup_steps)
        return self.final + (self.peak - self.final) * (1 + math.cos(math.pi * progress)) / 2

    def set(self, optimizer: torch.optim.Optimizer, step: int) -> float:
        """Give all parameters the learning rate of ``step``, and return it."""
        rate = self(step)
        for group in optimizer.param_groups:
            group["lr"] = rate
        return rate


def build_schedule(config: OptimizerConfig, total_steps: int) -> CosineSchedule:
    """The configured schedule; the warm-up is by default the paper's, or a tenth of a shorter run."""
    warmup = min(PAPER_WARMUP, total_steps // 10) if config.warmup_steps is None else config.warmup_steps
    return CosineSchedule(config.learning_rate, config.final_learning_rate, warmup, total_steps)
