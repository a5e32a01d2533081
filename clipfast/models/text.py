"""The text tower: a causal transformer read at the token that ends the text."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from clipfast.models.config import TextConfig
from clipfast.models.transformer import ResidualAttentionBlock, Transformer


class TextTower(nn.Module):
    """Token ids (B, L), L at most ``context_length``, to features (B, embed_dim), not normalised.

    The highest id in a row must be its end-of-text token, as in OpenAI's vocabulary: the feature is read there, and
    the causal mask keeps what follows (the padding) out of it.
    """

    def __init__(self, config: TextConfig, embed_dim: int) -> None:
        super().__init__()
        self.context_length = config.context_length
        self.token_embedding = nn.Embedding(config.vocab_size, config.width)
        self.positional_embedding = nn.Parameter(torch.empty(config.context_length, config.width))
        self.transformer = Transformer(config.width, config.layers, config.heads, causal=True)
        self.ln_final = nn.LayerNorm(config.width)
        self.text_projection = nn.Parameter(torch.empty(config.width, embed_dim))
        _initialise(self, config)

    def encode_text(self, tokens: Tensor) -> Tensor:
        """(B, L) ids -> (B, embed_dim)."""
        length = tokens.shape[1]
        if length > self.context_length:
            raise ValueError(f"the texts have {length} tokens, but the model reads at most {self.context_length}")
        x = self.token_embedding(tokens) + self.positional_embedding[:length]
        x = self.transformer(x)
        ends = x[torch.arange(len(x), device=x.device), tokens.argmax(dim=-1)]
        return self.ln_final(ends) @ self.text_projection


def _initialise(tower: TextTower, config: TextConfig) -> None:
    """OpenAI's: the residual branches shrink with the depth, so that the sum's variance does not grow with it."""
    width, branch_std = config.width, config.width**-0.5 * (2 * config.layers) ** -0.5
    nn.init.normal_(tower.token_embedding.weight, std=0.02)
    nn.init.normal_(tower.positional_embedding, std=0.01)
    nn.init.normal_(tower.text_projection, std=width**-0.5)
    for block in tower.transformer.resblocks:
        assert isinstance(block, ResidualAttentionBlock)
        nn.init.normal_(block.attn.in_proj_weight, std=width**-0.5)
        nn.init.normal_(block.attn.out_proj.weight, std=branch_std)
        nn.init.normal_(block.mlp.c_fc.weight, std=(2 * width) ** -0.5)
        nn.init.normal_(block.mlp.c_proj.weight, std=branch_std)
