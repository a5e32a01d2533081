"""CLIP (Radford et al., 2021) and SigLIP (Zhai et al., 2023): two towers, a temperature, and the fused loss."""

from __future__ import annotations

import math
from collections.abc import Iterable
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from clipfast.losses import clip_loss, siglip_loss
from clipfast.models.clip_config import ClipConfig
from clipfast.models.resnet import ModifiedResNet
from clipfast.models.text_tower import TextTower
from clipfast.models.tower_configs import ResNetConfig
from clipfast.models.vision_tower import VisionTransformer

INITIAL_LOGIT_SCALE = math.log(1 / 0.07)
MAX_LOGIT_SCALE = math.log(100)
SIGMOID_LOGIT_SCALE, SIGMOID_LOGIT_BIAS = math.log(10), -10.0
TOWERS = ("image", "text")


class CLIP(TextTower):
    """Images (B, channels, size, size) and token ids (B, L) to features (B, embed_dim), with OpenAI's parameter names.

    These names put the text tower's parameters at the root and the image tower's under ``visual``: hence the model *is*
    a text tower that has an image tower. With ``loss="sigmoid"`` it has a ``logit_bias`` beside the ``logit_scale``.
    """

    def __init__(self, config: ClipConfig) -> None:
        super().__init__(config.text, config.embed_dim)
        self.config = config
        sigmoid = config.loss == "sigmoid"
        self.visual = _image_tower(config)
        self.logit_scale = nn.Parameter(torch.tensor(SIGMOID_LOGIT_SCALE if sigmoid else INITIAL_LOGIT_SCALE))
        self.logit_bias = nn.Parameter(torch.tensor(SIGMOID_LOGIT_BIAS)) if sigmoid else None
        self._frozen_norms: list[nn.Module] = []

    @property
    def dtype(self) -> torch.dtype:
        """The dtype of the image tower's weights."""
        return self.visual.dtype

    def encode_image(self, images: Tensor) -> Tensor:
        """(B, channels, size, size) -> (B, embed_dim), not normalised."""
        return self.visual(images.to(self.dtype))

    def forward(self, images: Tensor, texts: Tensor) -> tuple[Tensor, Tensor]:
        """The logits, (M, N) for M images against N texts and (N, M) the other way: scaled cosines, and the bias of a
        sigmoid model. For inference; in training ``contrastive_loss`` avoids the matrix."""
        image_features = F.normalize(self.encode_image(images), dim=-1)
        text_features = F.normalize(self.encode_text(texts), dim=-1)
        logits_per_image = self.logit_scale.exp() * image_features @ text_features.T
        if self.logit_bias is not None:
            logits_per_image = logits_per_image + self.logit_bias
        return logits_per_image, logits_per_image.T

    def contrastive_loss(self, images: Tensor, texts: Tensor, **options: Any) -> Tensor:
        """The mean loss of B pairs, a scalar: the symmetric cross-entropy, or the pairwise sigmoid loss of a sigmoid model.

        Every other pair of the batch is a negative. ``options`` go to ``clip_loss`` or ``siglip_loss`` ("workspace_bytes",
        "backend", "reduction"). A side whose parameters are all locked costs no gradient.
        """
        features = self.encode_image(images), self.encode_text(texts)
        scale = self.logit_scale.exp()
        if self.logit_bias is not None:
            return siglip_loss(*features, scale, self.logit_bias, normalize=True, **options)
        loss = clip_loss(*features, scale, normalize=True, **options)
        assert isinstance(loss, Tensor)
        return loss

    @torch.no_grad()
    def clamp_logit_scale(self) -> None:
        """Keep the scale in [1, 100], as the paper does; for the training loop, after each step."""
        self.logit_scale.clamp_(0.0, MAX_LOGIT_SCALE)

    def set_grad_checkpointing(self, enable: bool = True, towers: Iterable[str] = TOWERS) -> None:
        """In training keep only each block's input, and compute the block again in the backward pass.

        ``towers`` is any of "image" and "text". A bag of words has no blocks, so nothing changes there.
        """
        chosen = [towers] if isinstance(towers, str) else list(towers)
        if unknown := [tower for tower in chosen if tower not in TOWERS]:
            raise ValueError(f"towers must be 'image', 'text' or both; got {', '.join(map(repr, unknown))}")
        if "image" in chosen:
            self.visual.set_grad_checkpointing(enable)
        if "text" in chosen and self.transformer is not None:
            self.transformer.grad_checkpointing = enable

    def lock_image_tower(self, unlocked_groups: int = 0, freeze_bn_stats: bool = False) -> None:
        """Train the text tower alone (LiT: Zhai et al., 2022), or with it the last ``unlocked_groups`` groups of the image
        tower: the head first, then the blocks from the last to the first, then the embedding of the pixels.

        Each call locks and unlocks all groups anew. ``freeze_bn_stats`` keeps the running statistics of the locked batch
        norms as they are, also after ``train()``.
        """
        groups = self.visual.groups()
        if not 0 <= unlocked_groups <= len(groups):
            raise ValueError(f"unlocked_groups must be in [0, {len(groups)}]; got {unlocked_groups}")
        self._frozen_norms = []
        for i, group in enumerate(groups):
            locked = i < len(groups) - unlocked_groups
            for part in group:
                part.requires_grad_(not locked)
                if locked and freeze_bn_stats and isinstance(part, nn.Module):
                    self._frozen_norms += [m for m in part.modules() if isinstance(m, nn.BatchNorm2d)]
        self.train(self.training)

    def train(self, mode: bool = True) -> CLIP:
        """As for any module, except that batch norms frozen by ``lock_image_tower`` stay in evaluation mode."""
        super().train(mode)
        for norm in self._frozen_norms:
            norm.eval()
        return self


def _image_tower(config: ClipConfig) -> VisionTransformer | ModifiedResNet:
    if isinstance(config.vision, ResNetConfig):
        return ModifiedResNet(config.vision, config.embed_dim)
    return VisionTransformer(config.vision, config.embed_dim)
