"""CLIP (Radford et al., 2021): two towers, one temperature, and the fused loss."""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from clipfast.functional import clip_loss
from clipfast.models.config import ClipConfig
from clipfast.models.text import TextTower
from clipfast.models.vision import VisionTransformer

INITIAL_LOGIT_SCALE = math.log(1 / 0.07)
MAX_LOGIT_SCALE = math.log(100)


class CLIP(TextTower):
    """Images (B, channels, size, size) and token ids (B, L) to features (B, embed_dim), with OpenAI's parameter names.

    Those names put the text tower's parameters at the root and the image tower's under ``visual``: hence the model *is*
    a text tower that has an image tower.
    """

    def __init__(self, config: ClipConfig) -> None:
        super().__init__(config.text, config.embed_dim)
        self.config = config
        self.visual = VisionTransformer(config.vision, config.embed_dim)
        self.logit_scale = nn.Parameter(torch.tensor(INITIAL_LOGIT_SCALE))

    @property
    def dtype(self) -> torch.dtype:
        """The dtype of the image tower's weights."""
        return self.visual.conv1.weight.dtype

    def encode_image(self, images: Tensor) -> Tensor:
        """(B, channels, size, size) -> (B, embed_dim), not normalised."""
        return self.visual(images.to(self.dtype))

    def forward(self, images: Tensor, texts: Tensor) -> tuple[Tensor, Tensor]:
        """The scaled cosines, (M, N) for M images against N texts and (N, M) the other way: for inference.

        Training has no need of them: ``contrastive_loss`` never forms the matrix.
        """
        image_features = F.normalize(self.encode_image(images), dim=-1)
        text_features = F.normalize(self.encode_text(texts), dim=-1)
        logits_per_image = self.logit_scale.exp() * image_features @ text_features.T
        return logits_per_image, logits_per_image.T

    def contrastive_loss(self, images: Tensor, texts: Tensor) -> Tensor:
        """The symmetric cross-entropy of B pairs, a scalar; every other pair of the batch is a negative."""
        loss = clip_loss(self.encode_image(images), self.encode_text(texts), self.logit_scale.exp(), normalize=True)
        assert isinstance(loss, Tensor)
        return loss

    @torch.no_grad()
    def clamp_logit_scale(self) -> None:
        """Keep the scale in [1, 100], as the paper does; for the training loop, after each step."""
        self.logit_scale.clamp_(0.0, MAX_LOGIT_SCALE)
