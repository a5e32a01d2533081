"""Attention within a sequence, attention pooling, and rotary positions."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from clipfast.models.layers import MLP, LayerNorm
from clipfast.models.tower_configs import BlockConfig

Rotation = tuple[Tensor, Tensor]


class Attention(nn.Module):
    """Multi-head self-attention with the parameters and initial values of ``nn.MultiheadAttention``.

    One projection gives queries, keys and values, without that module's transposes of the whole sequence. If the block has
    no ``key_bias``, the biases are ``q_bias`` and ``v_bias``; with ``sub_norm`` a LayerNorm precedes the output projection.
    """

    def __init__(self, block: BlockConfig) -> None:
        super().__init__()
        width = block.width
        self.heads = block.heads
        self.causal = block.causal
        self.in_proj_weight = nn.Parameter(torch.empty(3 * width, width))
        self.in_proj_bias = nn.Parameter(torch.zeros(3 * width)) if block.key_bias else None
        self.q_bias = None if block.key_bias else nn.Parameter(torch.zeros(width))
        self.v_bias = None if block.key_bias else nn.Parameter(torch.zeros(width))
        self.ln = LayerNorm(width, block.norm_eps) if block.sub_norm else None
        self.out_proj = nn.Linear(width, width)
        nn.init.xavier_uniform_(self.in_proj_weight)
        nn.init.zeros_(self.out_proj.bias)

    def forward(self, x: Tensor, rotation: Rotation | None = None) -> Tensor:
        """(B, L, W) -> (B, L, W); if ``causal``, no position sees a later one. ``rotation`` turns the queries and keys of the
        last positions (see ``rotate``)."""
        batch, length, width = x.shape
        qkv = F.linear(x, self.in_proj_weight, self._bias())
        query, key, value = qkv.view(batch, length, 3, self.heads, width // self.heads).permute(2, 0, 3, 1, 4)
        if rotation is not None:
            query, key = rotate(query, rotation), rotate(key, rotation)
        mixed = F.scaled_dot_product_attention(query, key, value, is_causal=self.causal)
        mixed = mixed.transpose(1, 2).reshape(batch, length, width)
        return self.out_proj(mixed if self.ln is None else self.ln(mixed))

    def _bias(self) -> Tensor | None:
        if self.q_bias is None or self.v_bias is None:
            return self.in_proj_bias
        return torch.cat([self.q_bias, torch.zeros_like(self.q_bias), self.v_bias])


class AttentionPool(nn.Module):
    """SigLIP's pooling (Zhai et al., 2022, "Scaling Vision Transformers"): a learnt query attends to all tokens, and a
    residual MLP follows; (B, L, W) -> (B, W)."""

    def __init__(self, block: BlockConfig) -> None:
        super().__init__()
        width = block.width
        self.heads = block.heads
        self.probe = nn.Parameter(torch.empty(width))
        self.in_proj_weight = nn.Parameter(torch.empty(3 * width, width))
        self.in_proj_bias = nn.Parameter(torch.zeros(3 * width))
        self.out_proj = nn.Linear(width, width)
        self.ln = LayerNorm(width, block.norm_eps)
        self.mlp = MLP(block)

    def forward(self, x: Tensor) -> Tensor:
        batch, length, width = x.shape
        query_weight, key_value_weight = self.in_proj_weight.split([width, 2 * width])
        query_bias, key_value_bias = self.in_proj_bias.split([width, 2 * width])
        query = F.linear(self.probe.to(x.dtype), query_weight, query_bias).view(1, self.heads, 1, -1)
        keys_values = F.linear(x, key_value_weight, key_value_bias)
        key, value = keys_values.view(batch, length, 2, self.heads, width // self.heads).permute(2, 0, 3, 1, 4)
        query = query.expand(batch, -1, -1, -1).to(key.dtype)
        pooled = self.out_proj(F.scaled_dot_product_attention(query, key, value).reshape(batch, width))
        return pooled + self.mlp(self.ln(pooled))


def rotary_positions(grid: int, reference_grid: int, head_width: int, device: torch.device) -> Rotation:
    """Cosines and sines (grid ** 2, head_width) of EVA-02's rotary positions (Fang et al., 2023), in float32.

    The first half of each head turns with the patch's row, the second half with its column. Rows and columns are scaled so
    that the side of every grid is ``reference_grid``. Not a buffer, as a half-precision model would round it.
    """
    steps = torch.arange(head_width // 4, device=device, dtype=torch.float32) / (head_width // 4)
    places = torch.arange(grid, device=device, dtype=torch.float32) / grid * reference_grid
    turns = torch.outer(places, 10_000.0**-steps).repeat_interleave(2, dim=1)
    rows = turns[:, None].expand(-1, grid, -1)
    angles = torch.cat([rows, rows.transpose(0, 1)], dim=2).flatten(0, 1)
    return angles.cos(), angles.sin()


def rotate(x: Tensor, rotation: Rotation) -> Tensor:
    """Turn each pair of channels (2i, 2i + 1) of ``x`` (B, heads, L, head_width), at its last positions: the patches. The
    class token before them has no place in the grid and stays as it is."""
    cos, sin = rotation
    first, rest = x.split([x.shape[2] - cos.shape[0], cos.shape[0]], dim=2)
    turned = torch.stack([-rest[..., 1::2], rest[..., ::2]], dim=-1).flatten(-2)
    return torch.cat([first, (rest * cos + turned * sin).to(x.dtype)], dim=2)
