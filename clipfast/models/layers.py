"""Small parts that the towers share: LayerNorm, the MLP, the projection to the embedding, the check of their pictures."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from clipfast.models.activations import ACTIVATIONS
from clipfast.models.tower_configs import BlockConfig

Part = nn.Module | nn.Parameter


class LayerNorm(nn.LayerNorm):
    """Computed in the dtype of its weights, which stay float32 in a half-precision model; the result has the input's dtype."""

    def forward(self, x: Tensor) -> Tensor:
        return super().forward(x.to(self.weight.dtype)).to(x.dtype)


class MLP(nn.Module):
    """``c_proj(act(c_fc(x)))``, or if gated ``c_proj(act(gate(x)) * c_fc(x))``: (..., width) -> (..., width).

    With ``sub_norm`` a LayerNorm precedes ``c_proj``.
    """

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
    """(..., width) -> (..., embed_dim), by a matrix (width, embed_dim), which is OpenAI's orientation, or by a Linear."""
    if projection is None:
        return x
    return projection(x) if isinstance(projection, nn.Linear) else x @ projection


def make_projection(kind: str, width: int, embed_dim: int) -> nn.Linear | nn.Parameter | None:
    """The argument of ``project`` for "matrix" (standard deviation width ** -0.5), "linear" and "none"."""
    if kind == "none":
        return None
    if kind == "linear":
        return nn.Linear(width, embed_dim)
    return nn.Parameter(width**-0.5 * torch.randn(width, embed_dim))


def check_images(images: Tensor, channels: int, size: int) -> None:
    """ValueError unless ``images`` are (B, channels, size, size)."""
    if images.ndim != 4 or images.shape[1:] != (channels, size, size):
        raise ValueError(f"images must have shape (B, {channels}, {size}, {size}); got {tuple(images.shape)}")
