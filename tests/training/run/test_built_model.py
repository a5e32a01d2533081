"""The model and the tokenizer of a run, as the configuration says."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from tiny_run import TEXT, VISION

from clipfast.models import ResNetConfig, TextConfig, VisionConfig, model_config
from clipfast.training.run.build import build_model, build_tokenizer
from clipfast.training.settings.parse import ConfigError
from clipfast.training.settings.train_config import ModelConfig


def test_a_model_as_the_configuration_says(tmp_path: Path):
    described = ModelConfig(
        embed_dim=6, vision=VisionConfig(**VISION), text=TextConfig(**TEXT),
        lock_image_tower=True, gradient_checkpointing=True,
    )  # fmt: skip
    model = build_model(described, torch.device("cpu"), torch.float64)
    assert {p.dtype for p in model.parameters()} == {torch.float64}
    assert not any(p.requires_grad for p in model.visual.parameters())
    assert model.text_projection.requires_grad
    assert model.visual.transformer.grad_checkpointing
    torch.save(model.state_dict(), tmp_path / "start.pt")
    again = build_model(
        ModelConfig(embed_dim=6, vision=described.vision, text=described.text, weights=str(tmp_path / "start.pt")),
        torch.device("cpu"),
        torch.float32,
    )
    assert torch.equal(again.visual.conv1.weight, model.visual.conv1.weight.float())


def test_a_locked_resnet_keeps_its_statistics():
    resnet = ResNetConfig(32, (1, 1, 1, 1), 8, 4)
    described = ModelConfig(embed_dim=6, vision=resnet, text=TextConfig(**TEXT), lock_image_tower=True)
    model = build_model(described, torch.device("cpu"), torch.float32)
    before = model.visual.bn1.running_mean.clone()
    model.train().encode_image(torch.rand(2, 3, 32, 32))
    assert torch.equal(model.visual.bn1.running_mean, before)


def test_a_tokenizer_that_fits_the_model():
    tokens = build_tokenizer(ModelConfig(name="ViT-tiny"))(["a dog", "word " * 100])
    assert tokens.shape == (2, 77)
    assert tokens[1, -1] == tokens[0].max()  # the end of a text that was cut
    shape = model_config("SigLIP-tiny")
    with pytest.raises(ConfigError, match=r"vocabulary must be that .* 49408 ids; got 32000; .*model\.sentencepiece"):
        build_tokenizer(ModelConfig(embed_dim=128, vision=shape.vision, text=shape.text))
