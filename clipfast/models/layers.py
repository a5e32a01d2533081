"""The small parts of every tower: LayerNorm, activations, the MLP."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from clipfast.models.tower_configs import BlockConfig


class LayerNorm(nn.LayerNorm):
    """In the dtype of its weights, with the result in the input's: float32 weights in a half-precision model."""

    def forward(self, x: Tensor) -> Tensor:
        return super().forward(x.to(self.weight.dtype)).to(x.dtype)


def quick_gelu(x: Tensor) -> Tensor:
    """``x * sigmoid(1.702 x)``, the activation of OpenAI's weights; the exact GELU gives visibly other features."""
    return x * torch.sigmoid(1.702 * x)


ACTIVATIONS: dict[str, Callable[[Tensor], Tensor]] = {
    "quick_gelu": quick_gelu,
    "gelu": F.gelu,
    "gelu_tanh": partial(F.gelu, approximate="tanh"),
    "silu": F.silu,
}


class MLP(nn.Module):
    """Widen, activate, narrow: (..., width) -> (..., width). Gated, ``c_proj(ln(act(gate(x)) * c_fc(x)))``."""

    def __init__(self, block: BlockConfig) -> None:
        super().__init__()
        self.activation = block.activation
        self.gate = nn.Linear(block.width, block.mlp_width) if block.gated else None
        self.c_fc = nn.Linear(block.width, block.mlp_width)
        self.ln = LayerNorm(block.mlp_width, block.norm_eps) if block.sub_norm else None
        self.c_proj = nn.Linear(block.mlp_width, block.width)

    def forward(self, x: Tensor) -> Tensor:
        activate = ACTIVATIONS[self.activation]
        hidden = activate(self.c_fc(x)) if self.gate is None else activate(self.gate(x)) * self.c_fc(x)
        return self.c_proj(hidden if self.ln is None else self.ln(hidden))


def project(x: Tensor, projection: nn.Linear | nn.Parameter | None) -> Tensor:
    """By a matrix (width, embed_dim) in OpenAI's orientation, by a Linear, or not at all."""
    if projection is None:
        return x
    return projection(x) if isinstance(projection, nn.Linear) else x @ projection


def make_projection(kind: str, width: int, embed_dim: int) -> nn.Linear | nn.Parameter | None:
    """What ``project`` takes, for "matrix" (standard deviation width ** -0.5), "linear" and "none"."""
    if kind == "none":
        return None
    if kind == "linear":
        return nn.Linear(width, embed_dim)
    return nn.Parameter(width**-0.5 * torch.randn(width, embed_dim))
