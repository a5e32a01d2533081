"""Transformers' CLIP and SigLIP with random weights in one layer, and pairs for them."""

from __future__ import annotations

from typing import Any

import torch
from peer_imports import load
from torch import Tensor

PAIRS, KINDS = 16, ("CLIP", "Siglip")
SIZES = {"hidden_size": 16, "intermediate_size": 32, "num_hidden_layers": 1, "num_attention_heads": 2}
VISION = {**SIZES, "image_size": 16, "patch_size": 8}
TEXT = {**SIZES, "vocab_size": 50, "max_position_embeddings": 6, "bos_token_id": 0, "eos_token_id": 49}


def models(kind: str, double: bool = False) -> tuple[Any, Any]:
    """Transformers' model and the fused model, with the same random weights."""
    transformers = load("transformers")
    fused = getattr(load("clipfast.integrations.transformers"), f"Fused{kind}Model")
    config = getattr(transformers, f"{kind}Config")(text_config=TEXT, vision_config=VISION, projection_dim=8)
    torch.manual_seed(0)
    theirs, ours = getattr(transformers, f"{kind}Model")(config), fused(config)
    with torch.no_grad():
        for value in theirs.parameters():
            value.add_(0.1 * torch.randn_like(value))
    ours.load_state_dict(theirs.state_dict())
    return (theirs.double(), ours.double()) if double else (theirs, ours)


def pairs(dtype: torch.dtype = torch.float32) -> list[dict[str, Tensor]]:
    generator = torch.Generator().manual_seed(1)
    ids = torch.randint(1, 49, (PAIRS, 6), generator=generator)
    ids[:, -1] = 49  # the end, where CLIP reads its feature
    images = torch.randn(PAIRS, 3, 16, 16, generator=generator, dtype=torch.float64).to(dtype)
    return [{"pixel_values": image, "input_ids": row} for image, row in zip(images, ids, strict=True)]


def collate(rows: list[dict[str, Tensor]]) -> dict[str, Any]:
    """A batch for CLIPModel, with ``return_loss``, which the fused models accept but do not need."""
    return {**{name: torch.stack([row[name] for row in rows]) for name in rows[0]}, "return_loss": True}
