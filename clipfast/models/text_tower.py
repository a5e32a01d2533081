"""The text tower: a transformer read at one position, or a bag of words."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from clipfast.models.initialise import initialise_text
from clipfast.models.layers import LayerNorm, make_projection, project
from clipfast.models.tower_configs import BagOfWordsConfig, TextConfig
from clipfast.models.transformer import Transformer


class TextTower(nn.Module):
    """Token ids (B, L), L at most ``context_length``, to features (B, embed_dim), not normalised.

    With ``pool="highest"`` the highest id in a row must be its end-of-text token, as in OpenAI's vocabulary: the feature
    is read there, and the causal mask keeps what follows (the padding) out of it. With ``pool="last"`` the feature is
    read at the last of exactly ``context_length`` tokens. A bag of words averages all tokens but the padding.
    """

    def __init__(self, config: TextConfig | BagOfWordsConfig, embed_dim: int) -> None:
        super().__init__()
        self.text_config = config
        self.context_length = config.context_length
        self.vocab_size = config.vocab_size
        self.token_embedding = nn.Embedding(config.vocab_size, config.width)
        self.positional_embedding: nn.Parameter | None = None
        self.transformer: Transformer | None = None
        if isinstance(config, TextConfig):
            self.positional_embedding = nn.Parameter(torch.empty(config.context_length, config.width))
            self.transformer = Transformer(config.block, config.layers)
        self.ln_final = LayerNorm(config.width, config.norm_eps)
        self.text_projection = make_projection(config.projection, config.width, embed_dim)
        initialise_text(self)

    def encode_text(self, tokens: Tensor) -> Tensor:
        """(B, L) ids -> (B, embed_dim)."""
        self._check(tokens)
        if isinstance(self.text_config, BagOfWordsConfig):
            pooled = self._mean_embedding(tokens, self.text_config.pad_id)
        elif self.text_config.pool == "last":
            pooled = self._transformed(tokens)[:, -1]
        else:
            rows = torch.arange(len(tokens), device=tokens.device)
            pooled = self._transformed(tokens)[rows, tokens.argmax(dim=-1)]
        return project(self.ln_final(pooled), self.text_projection)

    def _check(self, tokens: Tensor) -> None:
        if tokens.ndim != 2:
            raise ValueError(f"texts must be token ids of shape (B, length); got {tuple(tokens.shape)}")
        length, limit = tokens.shape[1], self.context_length
        if length > limit:
            raise ValueError(f"texts must have at most {limit} tokens; got {length}")
        if length < limit and getattr(self.text_config, "pool", None) == "last":
            raise ValueError(f"texts must have {limit} tokens, as the model reads the last; got {length}; pad them to {limit}")

    def _transformed(self, tokens: Tensor) -> Tensor:
        assert self.transformer is not None
        assert self.positional_embedding is not None
        dtype = self.text_dtype
        x = self.token_embedding(tokens).to(dtype) + self.positional_embedding[: tokens.shape[1]].to(dtype)
        return self.transformer(x)

    def _mean_embedding(self, tokens: Tensor, pad_id: int) -> Tensor:
        words = (tokens != pad_id).unsqueeze(-1)
        embedded = self.token_embedding(tokens)
        return ((embedded * words).sum(dim=1) / words.sum(dim=1).clamp_min(1)).to(self.text_dtype)

    @property
    def text_dtype(self) -> torch.dtype:
        """The dtype in which the tower computes: that of its projections, which ``convert_weights`` makes half precision."""
        if self.transformer is not None:
            return self.transformer.resblocks[0].get_parameter("attn.in_proj_weight").dtype
        projection = self.text_projection.weight if isinstance(self.text_projection, nn.Linear) else self.text_projection
        return self.token_embedding.weight.dtype if projection is None else projection.dtype
