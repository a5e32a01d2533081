"""Hugging Face's CLIPModel and SiglipModel."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from model_peers import assert_conforms, shaken
from peer_imports import peer
from torch import Tensor, nn

from clipfast.models import CLIP, ClipConfig, TextConfig, VisionConfig, create_model, export_state_dict
from clipfast.models.families import siglip_text, siglip_vision

pytestmark = pytest.mark.usefixtures("one_thread")
TEXT = {
    "vocab_size": 97, "hidden_size": 64, "intermediate_size": 160, "num_hidden_layers": 2, "num_attention_heads": 2,
    "max_position_embeddings": 9, "bos_token_id": 1, "eos_token_id": 96, "pad_token_id": 0,
}  # fmt: skip
VISION = {
    "hidden_size": 48, "intermediate_size": 128, "num_hidden_layers": 3, "num_attention_heads": 3, "image_size": 30,
    "patch_size": 6,
}  # fmt: skip


def features(result: Any) -> Tensor:
    """The pooled features: newer versions return them in an output object."""
    return result if isinstance(result, Tensor) else result.pooler_output


def encoders(theirs: nn.Module) -> tuple[Any, Any]:
    return (
        lambda images: features(theirs.get_image_features(pixel_values=images)),
        lambda texts: features(theirs.get_text_features(input_ids=texts)),
    )


@pytest.mark.parametrize("activation", ["quick_gelu", "gelu"])
def test_clip_model(activation: str) -> None:
    transformers = peer("transformers")
    torch.manual_seed(0)
    options = {"text_config": {**TEXT, "hidden_act": activation}, "vision_config": {**VISION, "hidden_act": activation}}
    theirs = shaken(transformers.CLIPModel(transformers.CLIPConfig(**options, projection_dim=40)))
    vision = VisionConfig(30, 6, 48, 3, 3, mlp_width=128, activation=activation)
    model = CLIP(ClipConfig(40, vision, TextConfig(9, 97, 64, 2, 2, mlp_width=160, activation=activation)))
    assert_conforms(model, theirs, *encoders(theirs), layout="huggingface")


def test_siglip_model() -> None:
    transformers = peer("transformers")
    torch.manual_seed(0)
    text = {**TEXT, "projection_size": 48}
    theirs = shaken(transformers.SiglipModel(transformers.SiglipConfig(text_config=text, vision_config=VISION)))
    vision = siglip_vision(30, 6, (48, 3, 3, 128), "gelu_tanh")
    model = CLIP(ClipConfig(48, vision, siglip_text(9, 97, (64, 2, 2, 160), "gelu_tanh"), "sigmoid"))
    assert_conforms(model, theirs, *encoders(theirs), layout="huggingface")


@pytest.mark.parametrize("name", ["RN50", "EVA02-B-16", "ViT-SO400M-16-SigLIP-i18n-256", "CBOW-tiny", "EVA01-g-14"])
def test_models_without_a_place_in_the_layout_are_refused(name: str) -> None:
    model = create_model(name, device="meta")
    with pytest.raises(
        ValueError,
        match=r"layout must be 'open_clip' for this model; got 'huggingface', which is for CLIPModel and SiglipModel",
    ):
        export_state_dict(model, "huggingface")
