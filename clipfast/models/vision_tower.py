"""The vision transformer: CLIP's (Radford et al., 2021), SigLIP's (Zhai et al., 2023) and EVA's (Sun et al., 2023)."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from clipfast.models.attention import AttentionPool, Rotation, rotary_positions
from clipfast.models.initialise import initialise_vision
from clipfast.models.layers import LayerNorm, Part, check_images, make_projection, project
from clipfast.models.tower_configs import VisionConfig
from clipfast.models.transformer import Transformer


class VisionTransformer(nn.Module):
    """Pictures (B, channels, image_size, image_size) to features (B, embed_dim), not normalised."""

    def __init__(self, config: VisionConfig, embed_dim: int) -> None:
        super().__init__()
        self.config = config
        self.input_resolution = config.image_size
        self.output_dim = embed_dim
        width, patch, std = config.width, config.patch_size, config.width**-0.5
        self.conv1 = nn.Conv2d(config.channels, width, patch, stride=patch, bias=config.patch_bias)
        self.class_embedding = nn.Parameter(std * torch.randn(width)) if config.class_token else None
        self.positional_embedding = nn.Parameter(std * torch.randn(config.tokens, width))
        self.ln_pre = LayerNorm(width, config.norm_eps) if config.input_norm else None
        self.transformer = Transformer(config.block, config.layers)
        self.ln_post = LayerNorm(width, config.norm_eps)
        self.attn_pool = AttentionPool(config.block) if config.pool == "attention" else None
        self.proj = make_projection(config.projection, width, embed_dim)
        initialise_vision(self)

    @property
    def dtype(self) -> torch.dtype:
        """The dtype of the patch embedding's weights, in which the blocks compute."""
        return self.conv1.weight.dtype

    def forward(self, images: Tensor) -> Tensor:
        check_images(images, self.config.channels, self.input_resolution)
        tokens = self.transformer(self._tokens(images.to(self.dtype)), self._rotation(images.device))
        if self.attn_pool is not None:
            return project(self.attn_pool(self.ln_post(tokens)), self.proj)
        return project(self.ln_post(tokens[:, 0]), self.proj)

    def _tokens(self, images: Tensor) -> Tensor:
        tokens = self.conv1(images).flatten(2).transpose(1, 2)  # (B, patches, width)
        if self.class_embedding is not None:
            first = self.class_embedding.to(tokens.dtype).expand(len(tokens), 1, -1)
            tokens = torch.cat([first, tokens], dim=1)
        tokens = tokens + self.positional_embedding.to(tokens.dtype)
        return tokens if self.ln_pre is None else self.ln_pre(tokens)

    def _rotation(self, device: torch.device) -> Rotation | None:
        if self.config.rope_grid is None:
            return None
        return rotary_positions(self.config.grid, self.config.rope_grid, self.config.width // self.config.heads, device)

    def set_grad_checkpointing(self, enable: bool = True) -> None:
        """Trade time for memory in training: the backward pass computes each block's activations again."""
        self.transformer.grad_checkpointing = enable

    def groups(self) -> list[list[Part]]:
        """The parts that are locked or unlocked together, from the pixels to the feature: the embedding, each block (the
        last with the norm after it), and the head, if there is one."""
        stem: list[Part | None] = [self.conv1, self.class_embedding, self.positional_embedding, self.ln_pre]
        blocks: list[list[Part | None]] = [[block] for block in self.transformer.resblocks]
        blocks[-1].append(self.ln_post)
        head: list[Part | None] = [self.attn_pool, self.proj]
        present = [[part for part in group if part is not None] for group in [stem, *blocks, head]]
        return [group for group in present if group]
