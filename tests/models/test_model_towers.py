"""Named models, configurations, the towers' behaviour, and the statistics of initial values."""

from __future__ import annotations

import math
from dataclasses import asdict, replace

import pytest
import torch
from model_peers import gap, images_for, texts_for
from peer_imports import peer
from test_openai_conformance import tiny as openai_tiny
from tiny_models import TEXT, TINY, VIT, batch_for, tiny
from torch import Tensor

from clipfast.models import (
    CLIP,
    BagOfWordsConfig,
    ClipConfig,
    ResNetConfig,
    TextConfig,
    config_from_state_dict,
    convert_weights,
    create_model,
    list_models,
    load_checkpoint,
    model_config,
)
from clipfast.models.families import eva_vision, siglip_text, siglip_vision

pytestmark = pytest.mark.usefixtures("one_thread")


def test_openai_s_and_open_clip_s_names() -> None:
    assert model_config("ViT-B/32") == model_config("ViT-B-32-quickgelu")
    assert model_config("ViT-B/32") == model_config("ViT-B-32").with_activation("quick_gelu")
    assert model_config("ViT-L/14@336px").vision.image_size == 336
    assert model_config("RN50").text.activation == "quick_gelu"
    assert {"RN50x64", "ViT-gopt-16-SigLIP2-384", "EVA02-E-14-plus", "ViT-tiny"} <= set(list_models())


@pytest.mark.parametrize(
    ("name", "close"), [("vit-b/23", "ViT-B/32"), ("EVA2-B-16", "EVA02-B-16"), ("ViT-B-16-SigLIP-225", "ViT-B-16-SigLIP-256")]
)
def test_an_unknown_name_lists_close_ones(name: str, close: str) -> None:
    with pytest.raises(ValueError, match=rf"name must be one of .*; got {name!r}; the closest names are .*{close}"):
        create_model(name)


def test_values_that_are_not_names_are_refused() -> None:
    with pytest.raises(ValueError, match=r"name must be one of clipfast.models.list_models\(\); got '\?'$"):
        create_model("?")
    with pytest.raises(TypeError, match="name_or_config must be a model's name or a ClipConfig; got dict"):
        create_model({"embed_dim": 3})  # type: ignore[arg-type]


@pytest.mark.parametrize("name", ["ViT-tiny", "RN-tiny", "SigLIP-tiny", "EVA02-tiny", "CBOW-tiny", "ViT-small"])
def test_small_models_run(name: str) -> None:
    model = create_model(name)
    assert sum(p.numel() for p in model.parameters()) < 2.5e7
    assert model.contrastive_loss(*batch_for(model, 2)).isfinite()


@pytest.mark.parametrize("name", list_models())
def test_configurations_survive_a_file(name: str) -> None:
    config = model_config(name)
    assert ClipConfig.from_dict(asdict(config)) == config
    assert hash(config) == hash(model_config(name))


def test_create_model_takes_device_and_dtype() -> None:
    assert {p.device.type for p in create_model(TINY["EVA02"], device="meta").parameters()} == {"meta"}
    model = create_model(TINY["SigLIP"], dtype=torch.bfloat16)
    assert {p.dtype for p in model.parameters()} == {torch.bfloat16}
    assert model.contrastive_loss(*batch_for(model)).isfinite()


def test_the_drop_in_attributes() -> None:
    model = create_model(TINY["ViT"])
    assert (model.visual.input_resolution, model.context_length, model.dtype) == (20, 9, torch.float32)
    assert model.logit_scale.item() == pytest.approx(math.log(1 / 0.07))


@pytest.mark.parametrize("kind", ["ViT", "RN"])
def test_half_features_are_openais(kind: str) -> None:
    theirs = openai_tiny(kind)
    model = CLIP(config_from_state_dict(theirs.state_dict()))
    load_checkpoint(model.eval(), theirs.state_dict())
    convert_weights(model)
    peer("clip.model").convert_weights(theirs)
    images, texts = images_for(model), texts_for(model)
    with torch.no_grad():
        assert gap(model.encode_image(images).float(), theirs.encode_image(images).float()) < 2e-3  # float16 rounds by 1e-3
        assert gap(model.encode_text(texts).float(), theirs.encode_text(texts).float()) < 2e-3
        assert model(images, texts)[0].dtype == torch.float16


@pytest.mark.parametrize("kind", TINY)
def test_half_weights_run_in_every_tower(kind: str) -> None:
    model = tiny(kind).eval()
    batch = batch_for(model)
    with torch.no_grad():
        exact = model.encode_image(batch[0]), model.encode_text(batch[1])
        convert_weights(model, torch.bfloat16)
        rounded = model.encode_image(batch[0]), model.encode_text(batch[1])
    for ours, reference in zip(rounded, exact, strict=True):
        assert ours.dtype == torch.bfloat16
        assert gap(ours.float(), reference) < 0.1
    norms = [value.dtype for name, value in model.named_parameters() if ".ln_" in name or "bn" in name]
    assert set(norms) == {torch.float32}


def test_a_bag_of_words_is_a_mean_in_any_order() -> None:
    model = tiny("CBOW")
    tokens = torch.tensor([[5, 7, 7, 0, 0], [7, 5, 0, 7, 0]])
    first, second = model.encode_text(tokens)
    torch.testing.assert_close(first, second)
    mean = model.token_embedding(torch.tensor([5, 7, 7])).mean(0)
    torch.testing.assert_close(first, model.ln_final(mean) @ model.text_projection)
    assert model.encode_text(torch.zeros(1, 5, dtype=torch.long)).isfinite().all()


def test_inputs_of_another_shape_are_refused() -> None:
    model = tiny("SigLIP")
    with pytest.raises(ValueError, match=r"images must have shape \(B, 3, 23, 23\); got \(2, 3, 24, 24\)"):
        model.encode_image(torch.zeros(2, 3, 24, 24))
    with pytest.raises(ValueError, match=r"texts must have 9 tokens, .*; got 5; pad them to 9"):
        model.encode_text(torch.ones(2, 5, dtype=torch.long))
    with pytest.raises(ValueError, match=r"texts must be token ids of shape \(B, length\); got \(5,\)"):
        model.encode_text(torch.ones(5, dtype=torch.long))
    with pytest.raises(ValueError, match=r"images must have shape \(B, 3, 64, 64\); got \(3, 64, 64\)"):
        tiny("RN").encode_image(torch.zeros(3, 64, 64))


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: ResNetConfig(60, (1, 1, 1, 1), 8, 4), "multiple of 32; got 60"),
        (lambda: ResNetConfig(64, (1, 1, 1), 8, 4), "four numbers of at least 1"),
        (lambda: ResNetConfig(64, (1, 1, 1, 1), 7, 4), "width must be even.*; got 7"),
        (lambda: replace(VIT, class_token=False), "pool must be 'attention' without a class_token; got 'class'"),
        (lambda: replace(VIT, pool="mean"), "pool must be one of 'class', 'attention'; got 'mean'"),
        (
            lambda: replace(VIT, rope_grid=16, width=18, heads=3),
            "a head's width must be a multiple of 4 for rotary positions; got 6",
        ),
        (lambda: replace(TEXT, activation="relu"), "activation must be one of 'quick_gelu', 'gelu', .*; got 'relu'"),
        (lambda: BagOfWordsConfig(9, 0, 8), "BagOfWordsConfig.vocab_size must be at least 1; got 0"),
        (lambda: ClipConfig(24, VIT, TEXT, "hinge"), "ClipConfig.loss must be one of 'softmax', 'sigmoid'; got 'hinge'"),
        (
            lambda: ClipConfig(24, VIT, replace(TEXT, projection="none")),
            "TextConfig.width must be embed_dim, 24, in a tower without projection; got 32",
        ),
    ],
)
def test_impossible_configurations_are_refused(make, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        make()


def stds(model: CLIP, expected: dict[str, float]) -> None:
    values = model.state_dict()
    for name, std in expected.items():
        assert values[name].std().item() == pytest.approx(std, rel=0.06), name
        assert abs(values[name].mean().item()) < 0.1 * std, name


def xavier(rows: int, columns: int) -> float:
    return (2 / (rows + columns)) ** 0.5


def chunks(value: Tensor) -> list[float]:
    return [part.std().item() for part in value.chunk(3)]


def test_initial_values_of_siglip() -> None:
    torch.manual_seed(0)
    size = (96, 2, 3, 384)
    model = CLIP(ClipConfig(96, siglip_vision(32, 4, size), siglip_text(64, 500, size), "sigmoid"))
    block = "transformer.resblocks.1"
    expected = {"token_embedding.weight": 96**-0.5, "text_projection.weight": 96**-0.5, "positional_embedding": 96**-0.5}
    expected |= {"visual.positional_embedding": 96**-0.5, "visual.conv1.weight": 48**-0.5}
    for at in (block, f"visual.{block}", "visual.attn_pool"):
        mlp, out = f"{at}.mlp", f"{at}.out_proj" if "pool" in at else f"{at}.attn.out_proj"
        expected |= {f"{out}.weight": xavier(96, 96), f"{mlp}.c_fc.weight": xavier(96, 384)}
        expected |= {f"{mlp}.c_proj.weight": xavier(384, 96)}
    stds(model, expected)
    values = model.state_dict()
    for name in (f"{block}.attn", f"visual.{block}.attn", "visual.attn_pool"):
        assert chunks(values[f"{name}.in_proj_weight"]) == pytest.approx([xavier(96, 96)] * 3, rel=0.06)
        assert not values[f"{name}.in_proj_bias"].any()
    assert values[f"{block}.mlp.c_fc.bias"].std().item() == pytest.approx(1e-6, rel=0.2)
    assert values["visual.attn_pool.probe"].std().item() == pytest.approx(xavier(1, 96), rel=0.2)
    assert (model.logit_scale.item(), model.logit_bias.item()) == pytest.approx((math.log(10), -10.0))


@pytest.mark.parametrize("block", ["eva02", "plain", "post_norm"])
def test_initial_values_of_eva(block: str) -> None:
    torch.manual_seed(0)
    model = CLIP(ClipConfig(96, eva_vision(32, 4, (96, 3, 3, 256), block), TextConfig(64, 500, 96, 2, 3, activation="gelu")))
    expected = {"visual.positional_embedding": 0.02, "visual.class_embedding": 0.02, "visual.proj.weight": 0.02 * 0.001}
    for depth in (1, 2, 3):
        at, branch = f"visual.transformer.resblocks.{depth - 1}", 0.02 / math.sqrt(2 * depth)
        expected |= {f"{at}.attn.in_proj_weight": 0.02, f"{at}.attn.out_proj.weight": branch}
        expected |= {f"{at}.mlp.c_fc.weight": 0.02, f"{at}.mlp.c_proj.weight": branch}
        expected |= {f"{at}.mlp.gate.weight": 0.02} if block == "eva02" else {}
    del expected["visual.class_embedding"]  # 96 numbers are too few for a tight bound
    stds(model, expected)
    assert model.visual.class_embedding.std().item() == pytest.approx(0.02, rel=0.25)
    biases = [value for name, value in model.visual.named_parameters() if "bias" in name and "conv1" not in name]
    assert not any(bias.any() for bias in biases)
    assert model.logit_scale.item() == pytest.approx(math.log(1 / 0.07))


def test_initial_values_of_the_resnet_and_the_bag_of_words() -> None:
    torch.manual_seed(0)
    model = CLIP(ClipConfig(64, ResNetConfig(64, (1, 2, 1, 1), 8, 4), BagOfWordsConfig(9, 500, 64)))
    projections = {f"visual.attnpool.{name}_proj.weight": 256**-0.5 for name in "qkvc"}
    stds(model, projections | {"token_embedding.weight": 0.02, "text_projection": 64**-0.5})
    for name, value in model.visual.named_parameters():
        if "bn3.weight" in name and "layer" in name:
            assert not value.any(), name
