"""A tiny model of every kind, with a vocabulary of 97."""

from __future__ import annotations

import torch
from model_peers import images_for, shaken, texts_for
from torch import Tensor

from clipfast.models import CLIP, BagOfWordsConfig, ClipConfig, ResNetConfig, TextConfig, VisionConfig
from clipfast.models.families import eva_vision, siglip_text, siglip_vision

SIZE = (48, 3, 3, 112)
TEXT = TextConfig(9, 97, 32, 2, 2)
VIT = VisionConfig(20, 5, 48, 3, 3)
TINY = {
    "ViT": ClipConfig(24, VIT, TEXT),
    "RN": ClipConfig(24, ResNetConfig(64, (1, 1, 2, 1), 8, 4), TEXT),
    "SigLIP": ClipConfig(48, siglip_vision(23, 5, SIZE), siglip_text(9, 97, (32, 2, 2, 80)), "sigmoid"),
    "EVA02": ClipConfig(24, eva_vision(20, 5, SIZE, "eva02"), TextConfig(9, 97, 32, 2, 2, activation="gelu")),
    "EVA01": ClipConfig(24, eva_vision(20, 5, SIZE, "plain"), TEXT),
    "EVA02-E": ClipConfig(24, eva_vision(20, 5, SIZE, "post_norm"), TEXT),
    "CBOW": ClipConfig(24, VIT, BagOfWordsConfig(9, 97, 32)),
}


def tiny(kind: str, seed: int = 0) -> CLIP:
    """A model in training mode, with noise on every parameter, as a ResNet's blocks do nothing at their initial values."""
    torch.manual_seed(seed)
    model = CLIP(TINY[kind])
    shaken(model, seed)
    return model.train()


def batch_for(model: CLIP, count: int = 6, seed: int = 3) -> tuple[Tensor, Tensor]:
    return images_for(model, count, seed), texts_for(model, count, seed + 1)
