"""The image tower: a vision transformer read at its class token."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from clipfast.models.config import VisionConfig
from clipfast.models.transformer import Transformer


class VisionTransformer(nn.Module):
    """Pictures (B, channels, image_size, image_size) to features (B, embed_dim), not normalised."""

    def __init__(self, config: VisionConfig, embed_dim: int) -> None:
        super().__init__()
        self.input_resolution = config.image_size
        width, std = config.width, config.width**-0.5
        self.conv1 = nn.Conv2d(config.channels, width, config.patch_size, stride=config.patch_size, bias=False)
        self.class_embedding = nn.Parameter(std * torch.randn(width))
        self.positional_embedding = nn.Parameter(std * torch.randn(config.tokens, width))
        self.ln_pre = nn.LayerNorm(width)
        self.transformer = Transformer(width, config.layers, config.heads)
        self.ln_post = nn.LayerNorm(width)
        self.proj = nn.Parameter(std * torch.randn(width, embed_dim))

    def forward(self, images: Tensor) -> Tensor:
        patches = self.conv1(images).flatten(2).transpose(1, 2)  # (B, patches, width)
        first = self.class_embedding.to(patches.dtype).expand(len(patches), 1, -1)
        tokens = torch.cat([first, patches], dim=1) + self.positional_embedding.to(patches.dtype)
        tokens = self.transformer(self.ln_pre(tokens))
        return self.ln_post(tokens[:, 0]) @ self.proj
