"""OpenAI's own model code: features, logits, TorchScript archives, half-precision weights."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from model_peers import LIMIT, assert_conforms, gaps, images_for, shaken, texts_for
from peer_imports import peer
from torch import nn

from clipfast.models import CLIP, config_from_state_dict, convert_weights, create_model, load_checkpoint, model_config
from clipfast.models.checkpoints import is_torchscript

pytestmark = pytest.mark.usefixtures("one_thread")
SIZES = {
    "ViT": {"image_resolution": 64, "vision_layers": 2, "vision_width": 128, "vision_patch_size": 16},
    "RN": {"image_resolution": 64, "vision_layers": (1, 2, 1, 2), "vision_width": 16, "vision_patch_size": None},
}


def tiny(kind: str) -> nn.Module:
    torch.manual_seed(0)
    text = {"context_length": 11, "vocab_size": 97, "transformer_width": 64, "transformer_heads": 1, "transformer_layers": 2}
    return shaken(peer("clip.model").CLIP(embed_dim=40, **SIZES[kind], **text))


def archive(model: nn.Module, path: Path) -> Path:
    """A TorchScript file with the entries of OpenAI's published files."""
    for name, value in (("input_resolution", 64), ("context_length", 11), ("vocab_size", 97)):
        delattr(model, name) if hasattr(model, name) else None
        model.register_buffer(name, torch.tensor(value))
    example = (torch.randn(2, 3, 64, 64), torch.randint(0, 97, (2, 11)))
    torch.jit.save(torch.jit.trace(model, example, check_trace=False), path)
    return path


@pytest.mark.parametrize("kind", SIZES)
def test_features_and_logits_are_openais(kind: str) -> None:
    theirs = tiny(kind)
    model = CLIP(config_from_state_dict(theirs.state_dict()))
    assert_conforms(model, theirs, theirs.encode_image, theirs.encode_text)
    images, texts = images_for(model), texts_for(model)
    with torch.no_grad():
        for ours, other in zip(model(images, texts), theirs(images, texts), strict=True):
            torch.testing.assert_close(ours, other, atol=1e-5, rtol=0)


@pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::torch.jit.TracerWarning")
@pytest.mark.parametrize("kind", SIZES)
def test_a_torchscript_archive_is_read(kind: str, tmp_path: Path) -> None:
    theirs = tiny(kind)
    config = config_from_state_dict(theirs.state_dict())
    path = archive(theirs, tmp_path / "model.pt")
    assert is_torchscript(path)
    model = CLIP(config)
    report = load_checkpoint(model, path)
    assert report.layout == "OpenAI"
    assert not report.unexpected
    assert max(gaps(model, theirs.encode_image, theirs.encode_text).values()) <= LIMIT


@pytest.mark.parametrize("kind", SIZES)
def test_the_same_weights_become_half(kind: str) -> None:
    theirs = tiny(kind)
    model = CLIP(config_from_state_dict(theirs.state_dict()))
    load_checkpoint(model, theirs.state_dict())
    convert_weights(model)
    peer("clip.model").convert_weights(theirs)
    expected = theirs.state_dict()
    for name, value in model.state_dict().items():
        assert value.dtype == expected[name].dtype, name
        assert torch.equal(value, expected[name]), name
    assert model.dtype == torch.float16


def test_half_weights_fill_a_float_model() -> None:
    theirs = tiny("ViT")
    model = CLIP(config_from_state_dict(theirs.state_dict()))
    peer("clip.model").convert_weights(theirs)
    load_checkpoint(model, theirs.state_dict())
    assert {value.dtype for value in model.parameters()} == {torch.float32}
    assert max(gaps(model, theirs.float().encode_image, theirs.encode_text).values()) <= LIMIT


@pytest.mark.parametrize("name", ["RN50", "RN101", "RN50x4", "RN50x16", "RN50x64", "ViT-B/32", "ViT-B/16", "ViT-L/14@336px"])
def test_the_architecture_is_derived_from_the_names(name: str) -> None:
    model = create_model(name, device="meta")
    assert config_from_state_dict(model.state_dict()) == model_config(name)


@pytest.mark.parametrize("name", ["ViT-B/32", "RN50"])
def test_full_size(name: str) -> None:
    config = model_config(name)
    vision = config.vision
    layers, patch = vision.layers, getattr(vision, "patch_size", None)
    sizes = (config.embed_dim, 224, layers, vision.width, patch, 77, 49408, config.text.width, config.text.heads, 12)
    torch.manual_seed(0)
    theirs = shaken(peer("clip.model").CLIP(*sizes), size=0.01)
    assert_conforms(create_model(name, device="meta"), theirs, theirs.encode_image, theirs.encode_text)
