"""AdamW with the CLIP paper's groups and numbers."""

from __future__ import annotations

import torch

from clipfast.models import CLIP, ResNetConfig
from clipfast.training.config import OptimizerConfig

# Radford et al. (2021), table 18
TRANSFORMER_BETAS, TRANSFORMER_EPS = (0.9, 0.98), 1e-6
RESNET_BETAS, RESNET_EPS = (0.9, 0.999), 1e-8


def build_optimizer(model: CLIP, config: OptimizerConfig) -> torch.optim.AdamW:
    """Over what requires a gradient. Matrices decay; gains, biases, the class token and the logit scale do not: whatever
    has fewer than two dimensions (section 2.5: "all weights that are not gains or biases")."""
    trained = [p for p in model.parameters() if p.requires_grad]
    groups = [
        {"params": [p for p in trained if p.ndim >= 2], "weight_decay": config.weight_decay},
        {"params": [p for p in trained if p.ndim < 2], "weight_decay": 0.0},
    ]
    resnet = isinstance(model.config.vision, ResNetConfig)
    betas = config.betas or (RESNET_BETAS if resnet else TRANSFORMER_BETAS)
    eps = config.eps or (RESNET_EPS if resnet else TRANSFORMER_EPS)
    return torch.optim.AdamW(groups, lr=config.learning_rate, betas=betas, eps=eps, fused=True)
