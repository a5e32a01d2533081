"""open_clip and timm: CLIP, CustomTextCLIP, SigLIP, SigLIP2 and EVA, tiny in every variant and some at full size."""

from __future__ import annotations

from functools import partial
from typing import Any

import pytest
import torch
from model_peers import LIMIT, assert_conforms, gaps, shaken
from peer_imports import peer
from torch import nn

from clipfast.models import (
    CLIP,
    ClipConfig,
    ResNetConfig,
    TextConfig,
    VisionConfig,
    create_model,
    export_state_dict,
    list_models,
    load_checkpoint,
    model_config,
)
from clipfast.models.families import eva_vision, siglip_text, siglip_vision

pytestmark = pytest.mark.usefixtures("one_thread")
TEXT = {"context_length": 9, "vocab_size": 97, "width": 64, "heads": 2, "layers": 2}
OUR_TEXT = TextConfig(9, 97, 64, 2, 2, activation="gelu")
SIZE = (64, 2, 2, 160)


class TwoTowers(nn.Module):
    """timm's and open_clip's towers under the names of open_clip's CustomTextCLIP, at any sizes."""

    def __init__(self, trunk: nn.Module, text: nn.Module, sigmoid: bool) -> None:
        super().__init__()
        self.visual = nn.Module()
        self.visual.trunk = trunk
        self.text = text
        self.logit_scale = nn.Parameter(torch.tensor(2.0))
        if sigmoid:
            self.logit_bias = nn.Parameter(torch.tensor(-3.0))


def text_tower(output: int | None = 40, **options: Any) -> nn.Module:
    return peer("open_clip.transformer").TextTransformer(**TEXT, output_dim=output, **options)


def siglip(activation: str, text_activation: str, output: int | None) -> TwoTowers:
    torch.manual_seed(0)
    norm, act = partial(peer("open_clip.transformer").LayerNorm, eps=1e-6), partial(nn.GELU, approximate=text_activation)
    head = {"proj_type": "none"} if output is None else {"proj_bias": True}
    text = text_tower(
        output, no_causal_mask=True, pool_type="last", norm_layer=norm, act_layer=act, mlp_ratio=SIZE[3] / 64, **head
    )
    trunk = peer("timm.models.vision_transformer").VisionTransformer(
        img_size=29, patch_size=7, num_classes=0, embed_dim=64, depth=2, num_heads=2, mlp_ratio=SIZE[3] / 64,
        class_token=False, global_pool="map", act_layer=activation,
    )  # fmt: skip
    return shaken(TwoTowers(trunk, text, sigmoid=True))


EVA_OPTIONS = {
    "eva02": {
        "qkv_fused": False, "swiglu_mlp": True, "scale_mlp": True, "scale_attn_inner": True, "use_rot_pos_emb": True,
        "ref_feat_shape": (16, 16),
    },
    "plain": {},
    "post_norm": {"use_post_norm": True},
}  # fmt: skip


def eva(block: str) -> TwoTowers:
    torch.manual_seed(0)
    trunk = peer("timm.models.eva").Eva(
        img_size=30, patch_size=6, num_classes=40, global_pool="token", embed_dim=64, depth=2, num_heads=2,
        mlp_ratio=SIZE[3] / 64, **EVA_OPTIONS[block],
    )  # fmt: skip
    return shaken(TwoTowers(trunk, text_tower(), sigmoid=False))


def eva_config(block: str) -> ClipConfig:
    return ClipConfig(40, eva_vision(30, 6, SIZE, block), OUR_TEXT)


@pytest.mark.parametrize("custom_text", [False, True])
@pytest.mark.parametrize("quick_gelu", [False, True])
@pytest.mark.parametrize("kind", ["ViT", "RN"])
def test_clip(kind: str, quick_gelu: bool, custom_text: bool) -> None:
    sizes = {"ViT": {"layers": 2, "width": 64, "head_width": 32, "patch_size": 8, "image_size": 40, "mlp_ratio": 2.5},
             "RN": {"layers": [1, 1, 2, 1], "width": 16, "image_size": 64}}  # fmt: skip
    vision = VisionConfig(40, 8, 64, 2, 2, mlp_width=160) if kind == "ViT" else ResNetConfig(64, (1, 1, 2, 1), 16, 8)
    model_module = peer("open_clip.model")
    torch.manual_seed(0)
    theirs = (model_module.CustomTextCLIP if custom_text else model_module.CLIP)(40, sizes[kind], TEXT, quick_gelu=quick_gelu)
    shaken(theirs)
    config = ClipConfig(40, vision, OUR_TEXT).with_activation("quick_gelu" if quick_gelu else "gelu")
    model = CLIP(config)
    if not custom_text:
        assert_conforms(model, theirs, theirs.encode_image, theirs.encode_text)
        return
    load_checkpoint(model, theirs.state_dict())  # written back, a plain CLIP has open_clip's plain layout
    assert max(gaps(model, theirs.encode_image, theirs.encode_text).values()) <= LIMIT


@pytest.mark.parametrize("text_activation", ["none", "tanh"])
@pytest.mark.parametrize("activation", ["gelu", "gelu_tanh"])
def test_siglip(activation: str, text_activation: str) -> None:
    theirs = siglip(activation, text_activation, output=64)
    text = siglip_text(9, 97, SIZE, "gelu_tanh" if text_activation == "tanh" else "gelu")
    model = CLIP(ClipConfig(64, siglip_vision(29, 7, SIZE, activation), text, "sigmoid"))
    assert_conforms(model, theirs, theirs.visual.trunk, theirs.text)


def test_siglip_without_a_text_projection() -> None:
    theirs = siglip("gelu", "none", output=None)
    text = siglip_text(9, 97, SIZE, projection="none")
    model = CLIP(ClipConfig(64, siglip_vision(29, 7, SIZE), text, "sigmoid"))
    assert_conforms(model, theirs, theirs.visual.trunk, theirs.text)


@pytest.mark.parametrize("block", EVA_OPTIONS)
def test_eva(block: str) -> None:
    theirs = eva(block)
    assert_conforms(CLIP(eva_config(block)), theirs, theirs.visual.trunk, theirs.text)


@pytest.mark.parametrize("block", EVA_OPTIONS)
def test_eva_clip_s_own_names(block: str) -> None:
    """The repository is not on PyPI. Its names are made from timm's, by the mapping in timm's loader."""
    theirs = eva(block)
    renames = {
        "visual.trunk.": "visual.", "q_proj.bias": "q_bias", "v_proj.bias": "v_bias", "attn.norm": "attn.inner_attn_ln",
        "mlp.fc1_g": "mlp.w1", "mlp.fc1_x": "mlp.w2", "mlp.norm": "mlp.ffn_ln",
    }  # fmt: skip
    renames |= {"mlp.fc2": "mlp.w3"} if block == "eva02" else {}
    state = {"visual.rope.freqs_cos": torch.zeros(3)}
    for name, value in theirs.state_dict().items():
        for old, new in renames.items():
            name = name.replace(old, new)  # noqa: PLW2901
        state[name] = value
    model = CLIP(eva_config(block))
    assert load_checkpoint(model, {"module": state}).layout == "EVA-CLIP"
    assert max(gaps(model, theirs.visual.trunk, theirs.text).values()) <= LIMIT


def test_timm_s_image_tower_alone() -> None:
    theirs = eva("eva02")
    model = CLIP(eva_config("eva02"))
    with pytest.raises(ValueError, match=r"timm layout.* missing: .*token_embedding"):
        load_checkpoint(model, theirs.visual.trunk.state_dict())
    report = load_checkpoint(model, theirs.visual.trunk.state_dict(), strict=False)
    assert report.layout == "timm"
    assert not report.unexpected
    model.load_state_dict(theirs.text.state_dict(), strict=False)
    assert max(gaps(model, theirs.visual.trunk, theirs.text).values()) <= LIMIT


def their_names() -> list[str]:
    known = set(peer("open_clip").list_models())
    return [name for name in list_models() if name in known]


def test_every_named_model_has_open_clip_s_parameters() -> None:
    open_clip = peer("open_clip")
    classes = peer("open_clip.model")
    names = their_names()
    assert {name for name in open_clip.list_models() if "SigLIP" in name or name.startswith("EVA")} <= set(names)
    for name in names:
        options = dict(open_clip.get_model_config(name))
        theirs = classes.CustomTextCLIP if options.pop("custom_text", False) else classes.CLIP
        with torch.device("meta"):
            expected = {key: value.shape for key, value in theirs(**options).state_dict().items()}
        ours = export_state_dict(create_model(name, device="meta"))
        assert {key: value.shape for key, value in ours.items()} == expected, name


def test_every_named_activation_is_open_clip_s() -> None:
    """Another GELU changes features by only 1e-4, so the activation is looked up instead of measured."""
    open_clip = peer("open_clip")
    timm_tanh = {"vit_base_patch32_siglip_256", "vit_large_patch16_siglip_512"}
    for name in their_names():
        options, config = open_clip.get_model_config(name), model_config(name)
        tanh = options["text_cfg"].get("act_kwargs", {}).get("approximate") == "tanh"
        quick = options.get("quick_gelu", False) or name.startswith("RN")
        assert config.text.activation == ("quick_gelu" if quick else "gelu_tanh" if tanh else "gelu"), name
        trunk = options["vision_cfg"].get("timm_model_name", "")
        if "siglip" in trunk:
            tanh = trunk in timm_tanh or trunk.startswith(("vit_so400m_patch16", "vit_giantopt"))
            assert config.vision.activation == ("gelu_tanh" if tanh else "gelu"), name


@pytest.mark.parametrize("name", ["EVA02-B-16", "ViT-B-16-SigLIP"])
def test_full_size(name: str) -> None:
    torch.manual_seed(0)
    theirs = shaken(peer("open_clip").create_model(name), size=0.01)
    assert_conforms(create_model(name, device="meta"), theirs, theirs.encode_image, theirs.encode_text)
