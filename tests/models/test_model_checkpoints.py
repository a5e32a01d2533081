"""Files and state dicts: reading, refusing and writing them, and resizing positions."""

from __future__ import annotations

import sys
from argparse import Namespace
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from model_peers import shaken
from peer_imports import peer
from tiny_models import TINY, VIT, batch_for, tiny
from torch import nn

from clipfast.models import (
    CLIP,
    ClipConfig,
    ResNetConfig,
    convert_weights,
    create_model,
    export_state_dict,
    load_checkpoint,
    save_checkpoint,
)
from clipfast.models.checkpoints import config_from_state_dict, read_state_dict

pytestmark = pytest.mark.usefixtures("one_thread")


def assert_same(left: nn.Module, right: nn.Module) -> None:
    ours, other = left.state_dict(), right.state_dict()
    assert ours.keys() == other.keys()
    assert all(torch.equal(ours[name], other[name]) for name in ours)


@pytest.mark.parametrize("suffix", ["pt", "safetensors"])
@pytest.mark.parametrize("kind", TINY)
def test_files_come_back_bitwise(kind: str, suffix: str, tmp_path: Path) -> None:
    if suffix == "safetensors":
        pytest.importorskip("safetensors")
    model, twin = tiny(kind), tiny(kind, seed=1)
    path = tmp_path / f"model.{suffix}"
    save_checkpoint(model, path)
    assert path.stat().st_size < 1.2 * sum(4 * p.numel() for p in model.state_dict().values()) + 60_000
    load_checkpoint(twin, path)
    assert_same(twin, model)
    assert list(tmp_path.iterdir()) == [path]


@pytest.mark.parametrize("kind", ["ViT", "SigLIP"])
def test_hugging_face_names_come_back_bitwise(kind: str) -> None:
    model, twin = tiny(kind), tiny(kind, seed=1)
    assert load_checkpoint(twin, export_state_dict(model, "huggingface")).layout == "Hugging Face"
    assert_same(twin, model)


@pytest.mark.parametrize("kind", TINY)
def test_a_model_on_meta_is_filled(kind: str) -> None:
    model = tiny(kind).eval()
    twin = create_model(TINY[kind], device="meta").eval()
    state = export_state_dict(model)
    load_checkpoint(twin, state)
    assert_same(twin, model)
    images, texts = batch_for(model)
    with torch.no_grad():
        expected = model(images, texts)[0]
        for tensor in state.values():
            tensor.zero_()  # the model must have its own tensors
        assert torch.equal(twin(images, texts)[0], expected)
    assert all(p.requires_grad for p in twin.parameters())


@pytest.mark.parametrize(
    "changes",
    [
        {"gated": True, "activation": "silu"},
        {"pool": "attention", "projection": "linear"},
        {"pool": "attention", "class_token": False, "input_norm": False},
        {"key_bias": False, "post_norm": True, "sub_norm": True},
        {"rope_grid": 16, "patch_bias": True},
    ],
)
def test_what_no_published_model_has_comes_back_too(changes: dict[str, object]) -> None:
    config = replace(TINY["ViT"], vision=replace(VIT, **changes), loss="sigmoid")
    model, twin = shaken(CLIP(config)), CLIP(config)
    load_checkpoint(twin, export_state_dict(model))
    assert_same(twin, model)


def test_a_model_on_meta_keeps_its_dtypes() -> None:
    model, twin = tiny("ViT"), create_model(TINY["ViT"], device="meta")
    convert_weights(twin)
    expected = {name: value.dtype for name, value in twin.state_dict().items()}
    load_checkpoint(twin, model.state_dict())
    assert {name: value.dtype for name, value in twin.state_dict().items()} == expected
    assert set(expected.values()) == {torch.float16, torch.float32}


def test_plain_models_are_written_with_openais_names() -> None:
    for kind in ("ViT", "RN"):
        model = tiny(kind)
        assert export_state_dict(model).keys() == model.state_dict().keys()


def test_wrappers_and_prefixes_are_seen_through(tmp_path: Path) -> None:
    model = tiny("ViT")
    state = model.state_dict()
    for wrapped in (
        {"state_dict": {f"module.{name}": value for name, value in state.items()}, "epoch": 3},
        {"model": {"module": state}},
        {f"_orig_mod.{name}": value for name, value in state.items()},
    ):
        torch.save(wrapped, tmp_path / "file.pt")
        twin = tiny("ViT", seed=1)
        load_checkpoint(twin, tmp_path / "file.pt")
        assert_same(twin, model)


def test_a_failed_load_changes_nothing() -> None:
    model, before = tiny("SigLIP"), tiny("SigLIP")
    state = export_state_dict(tiny("SigLIP", seed=1))
    del state["visual.trunk.blocks.1.attn.qkv.bias"]
    state["visual.trunk.blocks.9.attn.qkv.bias"] = torch.zeros(3)
    state["text.ln_final.weight"] = torch.zeros(33)
    with pytest.raises(ValueError, match=r"the checkpoint must fit the model; got \(OpenCLIP layout\) ") as error:
        load_checkpoint(model, state)
    said = str(error.value)
    assert "1 missing: visual.trunk.blocks.1.attn.qkv.bias" in said
    assert "1 unexpected: visual.trunk.blocks.9.attn.qkv.bias" in said
    assert "1 of another shape: ln_final.weight (33,) for (32,)" in said
    assert_same(model, before)
    with pytest.raises(ValueError, match="of another shape"):
        load_checkpoint(model, state, strict=False)
    assert_same(model, before)


def test_not_strict_reports_and_loads_the_rest() -> None:
    model, other = tiny("ViT"), tiny("ViT", seed=1)
    state = dict(other.state_dict())
    own = model.text_projection.detach().clone()
    state["left_over"] = state.pop("text_projection")
    report = load_checkpoint(model, state, strict=False)
    assert report.missing == ("text_projection",)
    assert report.unexpected == ("left_over",)
    assert torch.equal(model.text_projection, own)
    assert torch.equal(model.visual.proj, other.visual.proj)


def test_a_softmax_checkpoint_does_not_pass_for_a_sigmoid_model() -> None:
    config = replace(TINY["ViT"], loss="sigmoid")
    with pytest.raises(ValueError, match="1 missing: logit_bias"):
        load_checkpoint(CLIP(config), tiny("ViT").state_dict())


@pytest.mark.parametrize(
    ("contents", "message"),
    [
        ({"weight": torch.zeros(2)}, r"the names in a checkpoint must be those of .*; got weight"),
        ({"epoch": 3}, r"got no tensor under \['epoch'\]"),
        ([torch.zeros(2)], "a mapping of names to tensors; got list"),
        ({"args": Namespace(lr=1)}, "cannot be read.*; a pickle may hold only tensors and plain values"),
    ],
)
def test_other_files_are_refused(contents: object, message: str, tmp_path: Path) -> None:
    torch.save(contents, tmp_path / "file.pt")
    with pytest.raises(ValueError, match=message):
        load_checkpoint(tiny("ViT"), tmp_path / "file.pt")


def test_no_file_and_no_checkpoint(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match="there is no file"):
        read_state_dict(tmp_path / "absent.pt")
    (tmp_path / "text.pt").write_text("hello")
    with pytest.raises(ValueError, match=r"text.pt must be a state dict saved by torch, .*; got a file that cannot be read"):
        read_state_dict(tmp_path / "text.pt")
    with pytest.raises(ValueError, match="layout must be one of 'open_clip', 'huggingface'; got 'tensorflow'"):
        save_checkpoint(tiny("ViT"), tmp_path / "a.pt", layout="tensorflow")
    with pytest.raises(
        ValueError, match=r"names of OpenAI's CLIP models; got none called 'visual\.conv1\.weight'; create the model"
    ):
        config_from_state_dict({"visual.proj": torch.zeros(1)})


VIT_STATE = CLIP(TINY["ViT"]).state_dict()


def test_safetensors_says_what_it_needs(monkeypatch, tmp_path: Path) -> None:
    monkeypatch.setitem(sys.modules, "safetensors.torch", None)
    with pytest.raises(ImportError, match=r"a safetensors file needs safetensors.* pip install 'clipfast\[models\]'"):
        save_checkpoint(tiny("ViT"), tmp_path / "a.safetensors")


def resized(kind: str, **changes: object) -> tuple[CLIP, CLIP]:
    """A model, and one of another resolution with its weights."""
    source = tiny(kind)
    vision, text = replace(source.config.vision, **changes), replace(source.config.text, context_length=14)
    target = CLIP(replace(source.config, vision=vision, text=text))
    report = load_checkpoint(target, export_state_dict(source))
    assert len(report.resized) == 2
    return source, target


def test_clip_positions_are_resized_as_open_clip_does() -> None:
    functions = peer("open_clip.model")
    source, target = resized("ViT", image_size=35)
    state = {name: value.clone() for name, value in source.state_dict().items()}
    visual = Namespace(grid_size=(7, 7))
    functions.resize_pos_embed(state, Namespace(visual=visual))
    functions.resize_text_pos_embed(state, Namespace(positional_embedding=target.positional_embedding))
    torch.testing.assert_close(target.visual.positional_embedding.detach(), state["visual.positional_embedding"])
    torch.testing.assert_close(target.positional_embedding.detach(), state["positional_embedding"])
    assert torch.equal(target.visual.positional_embedding[0], source.visual.positional_embedding[0])


@pytest.mark.parametrize(("kind", "first"), [("SigLIP", 0), ("EVA02", 1)])
def test_timm_positions_are_resized_as_timm_does(kind: str, first: int) -> None:
    source, target = resized(kind, image_size=30, ignore_remainder=False)
    expected = peer("timm.layers").resample_abs_pos_embed(
        source.visual.positional_embedding.detach()[None], (6, 6), num_prefix_tokens=first
    )
    torch.testing.assert_close(target.visual.positional_embedding.detach(), expected[0])


def test_resnet_positions_are_resized() -> None:
    source = tiny("RN")
    with torch.no_grad():
        source.visual.attnpool.positional_embedding[1:] = 0.25
    target = CLIP(replace(source.config, vision=replace(source.config.vision, image_size=96)))
    assert load_checkpoint(target, source.state_dict()).resized == ("visual.attnpool.positional_embedding",)
    table = target.visual.attnpool.positional_embedding
    assert torch.equal(table[0], source.visual.attnpool.positional_embedding[0])
    torch.testing.assert_close(table[1:].detach(), torch.full((9, 256), 0.25))


def test_a_checkpoint_of_another_shape_is_not_resized() -> None:
    bigger = ClipConfig(24, replace(VIT, width=96), TINY["ViT"].text)
    with pytest.raises(ValueError, match=r"\d+ of another shape: visual"):
        load_checkpoint(CLIP(bigger), VIT_STATE)
    stages = replace(TINY["RN"], vision=ResNetConfig(64, (1, 1, 1, 1), 8, 4))
    with pytest.raises(ValueError, match=r"unexpected: visual.layer3.1"):
        load_checkpoint(CLIP(stages), tiny("RN").state_dict())
