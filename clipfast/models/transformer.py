"""Residual blocks of attention and MLP, and the stack of them. Sequences are (batch, length, width)."""

from __future__ import annotations

from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from clipfast.models.attention import Attention, Rotation
from clipfast.models.layers import MLP, LayerNorm
from clipfast.models.tower_configs import BlockConfig


class ResidualAttentionBlock(nn.Module):
    """``x + attention(norm(x))``, then ``x + mlp(norm(x))``; with ``post_norm`` the norm comes after each branch."""

    def __init__(self, block: BlockConfig) -> None:
        super().__init__()
        self.post_norm = block.post_norm
        self.ln_1 = LayerNorm(block.width, block.norm_eps)
        self.attn = Attention(block)
        self.ln_2 = LayerNorm(block.width, block.norm_eps)
        self.mlp = MLP(block)

    def forward(self, x: Tensor, rotation: Rotation | None = None) -> Tensor:
        if self.post_norm:
            x = x + self.ln_1(self.attn(x, rotation))
            return x + self.ln_2(self.mlp(x))
        x = x + self.attn(self.ln_1(x), rotation)
        return x + self.mlp(self.ln_2(x))


class Transformer(nn.Module):
    """``layers`` residual blocks, (B, L, width) -> (B, L, width).

    With ``grad_checkpointing`` a training step keeps only each block's input, and the backward pass computes the block again.
    """

    def __init__(self, block: BlockConfig, layers: int) -> None:
        super().__init__()
        self.grad_checkpointing = False
        self.resblocks = nn.Sequential(*(ResidualAttentionBlock(block) for _ in range(layers)))

    def forward(self, x: Tensor, rotation: Rotation | None = None) -> Tensor:
        for block in self.resblocks:
            if self.grad_checkpointing and self.training:
                x = checkpoint(block, x, rotation, use_reentrant=False)
            else:
                x = block(x, rotation)
        return x
