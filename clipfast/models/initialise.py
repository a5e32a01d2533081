"""Initial values of towers, one recipe for each family. Tests compare the parameters' statistics with what this says.

"clip" (Radford et al., 2021, and OpenAI's code): in the text tower the residual branches shrink with the depth, so that
the sum's variance does not grow with it; the vision transformer's blocks keep torch's defaults.
"siglip" (Zhai et al., 2023, and big_vision): Xavier kernels, biases of the MLPs with standard deviation 1e-6, positions and
token embeddings with standard deviation width ** -0.5.
"eva" (Sun et al., 2023): standard deviation 0.02; each branch's last projection is divided by sqrt(2 * depth of its block), and
a linear head multiplied by 0.001.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Protocol

import torch
from torch import Tensor, nn

from clipfast.models.attention import Attention, AttentionPool
from clipfast.models.layers import MLP
from clipfast.models.tower_configs import BagOfWordsConfig, TextConfig, VisionConfig
from clipfast.models.transformer import Transformer

EVA_STD, EVA_HEAD_FACTOR = 0.02, 0.001


class VisionParts(Protocol):
    """What a recipe needs to know of an image tower."""

    config: VisionConfig
    conv1: nn.Conv2d
    class_embedding: nn.Parameter | None
    positional_embedding: nn.Parameter
    transformer: Transformer
    attn_pool: AttentionPool | None
    proj: nn.Linear | nn.Parameter | None

    def modules(self) -> Iterator[nn.Module]: ...


class TextParts(Protocol):
    """What a recipe needs to know of a text tower; a bag of words has neither positions nor transformer."""

    text_config: TextConfig | BagOfWordsConfig
    token_embedding: nn.Embedding
    positional_embedding: nn.Parameter | None
    transformer: Transformer | None
    text_projection: nn.Linear | nn.Parameter | None


def initialise_vision(tower: VisionParts) -> None:
    """In place, by ``tower.config.weights``. Parameters that OpenAI leaves at torch's defaults are untouched."""
    if tower.config.weights == "siglip":
        _siglip_vision(tower)
    elif tower.config.weights == "eva":
        _eva_vision(tower)
    elif tower.attn_pool is not None:
        _siglip_pool(tower.attn_pool)


def initialise_text(tower: TextParts) -> None:
    """In place, by the configuration's ``weights``; a bag of words is initialised as CLIP's embeddings are."""
    width = tower.text_config.width
    siglip = getattr(tower.text_config, "weights", "clip") == "siglip"
    nn.init.normal_(tower.token_embedding.weight, std=width**-0.5 if siglip else 0.02)
    _projection(tower.text_projection, width)
    if tower.transformer is None or tower.positional_embedding is None:
        return
    nn.init.normal_(tower.positional_embedding, std=width**-0.5 if siglip else 0.01)
    if siglip:
        _siglip_blocks(tower.transformer)
    else:
        _clip_blocks(tower.transformer, width)


def _clip_blocks(transformer: Transformer, width: int) -> None:
    branch_std = width**-0.5 * (2 * len(transformer.resblocks)) ** -0.5
    for attention, mlp in _branches(transformer):
        nn.init.normal_(attention.in_proj_weight, std=width**-0.5)
        nn.init.normal_(attention.out_proj.weight, std=branch_std)
        nn.init.normal_(mlp.c_fc.weight, std=(2 * width) ** -0.5)
        nn.init.normal_(mlp.c_proj.weight, std=branch_std)


def _siglip_vision(tower: VisionParts) -> None:
    nn.init.normal_(tower.conv1.weight, std=tower.conv1.weight[0].numel() ** -0.5)
    if tower.conv1.bias is not None:
        nn.init.zeros_(tower.conv1.bias)
    nn.init.normal_(tower.positional_embedding, std=tower.config.width**-0.5)
    _siglip_blocks(tower.transformer)
    _projection(tower.proj, tower.config.width)
    if tower.attn_pool is not None:
        _siglip_pool(tower.attn_pool)


def _siglip_blocks(transformer: Transformer) -> None:
    for attention, mlp in _branches(transformer):
        _xavier_attention(attention)
        _xavier_mlp(mlp)


def _siglip_pool(pool: AttentionPool) -> None:
    nn.init.xavier_uniform_(pool.probe[None])
    _xavier_attention(pool)
    _xavier_mlp(pool.mlp)


def _xavier_attention(attention: Attention | AttentionPool) -> None:
    for part in attention.in_proj_weight.detach().chunk(3):  # queries, keys and values are matrices of their own
        nn.init.xavier_uniform_(part)
    nn.init.xavier_uniform_(attention.out_proj.weight)
    nn.init.zeros_(attention.out_proj.bias)


def _xavier_mlp(mlp: MLP) -> None:
    for layer in (mlp.gate, mlp.c_fc, mlp.c_proj):
        if layer is not None:
            nn.init.xavier_uniform_(layer.weight)
            nn.init.normal_(layer.bias, std=1e-6)


@torch.no_grad()
def _eva_vision(tower: VisionParts) -> None:
    for module in tower.modules():
        if isinstance(module, nn.Linear):
            _eva_normal(module.weight)
            nn.init.zeros_(module.bias)
        elif isinstance(module, Attention | AttentionPool):
            _eva_normal(module.in_proj_weight)
    for depth, (attention, mlp) in enumerate(_branches(tower.transformer), start=1):
        attention.out_proj.weight.div_((2 * depth) ** 0.5)
        mlp.c_proj.weight.div_((2 * depth) ** 0.5)
    _eva_normal(tower.positional_embedding)
    for parameter in (tower.class_embedding, None if tower.attn_pool is None else tower.attn_pool.probe):
        if parameter is not None:
            _eva_normal(parameter)
    if isinstance(tower.proj, nn.Linear):
        tower.proj.weight.mul_(EVA_HEAD_FACTOR)


def _eva_normal(weight: Tensor) -> None:
    nn.init.trunc_normal_(weight, std=EVA_STD)


def _projection(projection: nn.Linear | nn.Parameter | None, width: int) -> None:
    if isinstance(projection, nn.Linear):
        nn.init.normal_(projection.weight, std=width**-0.5)
        nn.init.zeros_(projection.bias)
    elif projection is not None:
        nn.init.normal_(projection, std=width**-0.5)


def _branches(transformer: Transformer) -> list[tuple[Attention, MLP]]:
    """The two branches of each block."""
    return [(block.get_submodule("attn"), block.get_submodule("mlp")) for block in transformer.resblocks]  # type: ignore[misc]
