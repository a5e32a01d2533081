"""The models: OpenAI's parameter names, shapes and initial values, and the properties that define CLIP."""

from __future__ import annotations

import math
from dataclasses import asdict

import pytest
import torch
import torch.nn.functional as F

from clipfast.models import CLIP, ClipConfig, TextConfig, TextTower, VisionConfig

TINY = ClipConfig(20, VisionConfig(12, 4, 24, 2, 3), TextConfig(9, 40, 16, 3, 2))
END = TINY.text.vocab_size - 1


pytestmark = pytest.mark.usefixtures("one_thread")


@pytest.fixture
def model() -> CLIP:
    torch.manual_seed(0)
    return CLIP(TINY)


def texts(rows: int, seed: int = 0) -> torch.Tensor:
    """Random ids with the end at a random place and zeros after it."""
    random = torch.Generator().manual_seed(seed)
    length = TINY.text.context_length
    ids = torch.randint(1, END, (rows, length), generator=random)
    ends = torch.randint(1, length - 1, (rows, 1), generator=random)
    at = torch.arange(length)
    return torch.where(at < ends, ids, torch.where(at == ends, END, 0))


def block_shapes(prefix: str, width: int, layers: int) -> dict[str, tuple[int, ...]]:
    shapes: dict[str, tuple[int, ...]] = {}
    for i in range(layers):
        at = f"{prefix}transformer.resblocks.{i}"
        shapes |= {f"{at}.{norm}.{part}": (width,) for norm in ("ln_1", "ln_2") for part in ("weight", "bias")}
        shapes |= {f"{at}.attn.in_proj_weight": (3 * width, width), f"{at}.attn.in_proj_bias": (3 * width,)}
        shapes |= {f"{at}.attn.out_proj.weight": (width, width), f"{at}.attn.out_proj.bias": (width,)}
        shapes |= {f"{at}.mlp.c_fc.weight": (4 * width, width), f"{at}.mlp.c_fc.bias": (4 * width,)}
        shapes |= {f"{at}.mlp.c_proj.weight": (width, 4 * width), f"{at}.mlp.c_proj.bias": (width,)}
    return shapes


def test_parameters_have_openai_names_and_shapes(model: CLIP) -> None:
    expected = {
        "positional_embedding": (9, 16), "text_projection": (16, 20), "logit_scale": (),
        "token_embedding.weight": (40, 16), "ln_final.weight": (16,), "ln_final.bias": (16,),
        "visual.class_embedding": (24,), "visual.positional_embedding": (10, 24), "visual.proj": (24, 20),
        "visual.conv1.weight": (24, 3, 4, 4), "visual.ln_pre.weight": (24,), "visual.ln_pre.bias": (24,),
        "visual.ln_post.weight": (24,), "visual.ln_post.bias": (24,),
    }  # fmt: skip
    expected |= block_shapes("", 16, 3) | block_shapes("visual.", 24, 2)
    assert {name: tuple(value.shape) for name, value in model.state_dict().items()} == expected
    assert {name for name, _ in model.named_parameters()} == set(expected)


def test_vit_b_32_has_the_published_size() -> None:
    with torch.device("meta"):
        big = CLIP(ClipConfig(512, VisionConfig(224, 32, 768, 12, 12), TextConfig(77, 49408, 512, 12, 8)))
    assert len(big.state_dict()) == 302
    assert sum(p.numel() for p in big.parameters()) == 151_277_313
    assert big.visual.input_resolution == 224
    assert big.context_length == 77


def test_initial_values() -> None:
    torch.manual_seed(0)
    width, layers, vision_width = 128, 3, 96
    model = CLIP(ClipConfig(128, VisionConfig(32, 4, vision_width, 2, 2), TextConfig(64, 500, width, layers, 2)))
    block, branch = "transformer.resblocks.1", (width * 2 * layers) ** -0.5
    stds = {
        "token_embedding.weight": 0.02, "positional_embedding": 0.01, "text_projection": width**-0.5,
        f"{block}.attn.in_proj_weight": width**-0.5, f"{block}.attn.out_proj.weight": branch,
        f"{block}.mlp.c_fc.weight": (2 * width) ** -0.5, f"{block}.mlp.c_proj.weight": branch,
        "visual.positional_embedding": vision_width**-0.5, "visual.proj": vision_width**-0.5,
        f"visual.{block}.attn.in_proj_weight": (2 / (4 * vision_width)) ** 0.5,
        f"visual.{block}.mlp.c_fc.weight": (3 * vision_width) ** -0.5,
    }  # fmt: skip
    values = model.state_dict()
    for name, std in stds.items():
        assert values[name].std().item() == pytest.approx(std, rel=0.05), name
    for prefix in ("", "visual."):
        assert not values[f"{prefix}{block}.attn.in_proj_bias"].any()
        assert not values[f"{prefix}{block}.attn.out_proj.bias"].any()
    assert values["logit_scale"].item() == pytest.approx(math.log(1 / 0.07))


def test_attention_is_that_of_multihead_attention(model: CLIP) -> None:
    x = torch.randn(3, 7, 16)
    for causal in (False, True):
        ours = model.transformer.resblocks[0].attn
        ours.causal = causal
        theirs = torch.nn.MultiheadAttention(16, 2, batch_first=True)
        theirs.load_state_dict(ours.state_dict())
        mask = torch.nn.Transformer.generate_square_subsequent_mask(7) if causal else None
        torch.testing.assert_close(ours(x), theirs(x, x, x, attn_mask=mask, need_weights=False)[0], atol=2e-6, rtol=1e-5)


def test_a_text_feature_depends_on_nothing_after_its_end(model: CLIP) -> None:
    tokens = texts(11)
    after_end = torch.arange(tokens.shape[1]) > tokens.argmax(1, keepdim=True)
    changed = torch.where(after_end, torch.randint(1, END, tokens.shape), tokens)
    assert (changed != tokens).any()
    torch.testing.assert_close(model.encode_text(changed), model.encode_text(tokens), atol=1e-6, rtol=1e-6)
    before_end = tokens.clone()
    before_end[:, 0] = before_end[:, 0] % (END - 1) + 1
    assert not torch.allclose(model.encode_text(before_end), model.encode_text(tokens), atol=1e-4)


def test_shorter_rows_are_read_and_longer_ones_refused(model: CLIP) -> None:
    tokens = texts(5)
    padded = torch.cat([tokens[:, :4].clamp_max(END - 1), torch.full((5, 1), END)], dim=1)
    full = F.pad(padded, (0, TINY.text.context_length - 5))
    torch.testing.assert_close(model.encode_text(padded), model.encode_text(full), atol=1e-6, rtol=1e-6)
    with pytest.raises(ValueError, match="texts must have at most 9 tokens; got 10"):
        model.encode_text(torch.zeros(2, 10, dtype=torch.long))


def test_forward_gives_scaled_cosines_for_unequal_numbers(model: CLIP) -> None:
    images, tokens = torch.randn(4, 3, 12, 12), texts(7)
    per_image, per_text = model(images, tokens)
    cosines = F.cosine_similarity(model.encode_image(images)[:, None], model.encode_text(tokens)[None], dim=-1)
    assert per_image.shape == (4, 7)
    torch.testing.assert_close(per_image, cosines / 0.07, atol=1e-5, rtol=1e-5)
    torch.testing.assert_close(per_text, per_image.T)


def test_contrastive_loss_and_gradients_are_the_dense_ones(model: CLIP) -> None:
    images, tokens = torch.randn(13, 3, 12, 12), texts(13)
    names = [name for name, _ in model.named_parameters()]
    fused = model.contrastive_loss(images, tokens)
    fused_grads = torch.autograd.grad(fused, list(model.parameters()))
    labels = torch.arange(13)
    dense = sum(F.cross_entropy(logits, labels) for logits in model(images, tokens)) / 2
    dense_grads = torch.autograd.grad(dense, list(model.parameters()))
    torch.testing.assert_close(fused, dense)
    for name, ours, theirs in zip(names, fused_grads, dense_grads, strict=True):
        torch.testing.assert_close(ours, theirs, atol=1e-5, rtol=1e-4, msg=lambda text, name=name: f"{name}: {text}")


def test_two_steps_stay_finite_and_the_scale_clamped(model: CLIP) -> None:
    optimizer = torch.optim.AdamW(model.parameters(), lr=1.0)
    with torch.no_grad():
        model.logit_scale.fill_(10.0)
    model.clamp_logit_scale()
    assert model.logit_scale.item() == pytest.approx(math.log(100))
    for _ in range(2):
        loss = model.contrastive_loss(torch.randn(6, 3, 12, 12), texts(6))
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        model.clamp_logit_scale()
        assert loss.isfinite()
        assert 0 <= model.logit_scale.item() <= math.log(100) + 1e-6
    assert all(p.isfinite().all() for p in model.parameters())


def test_state_dict_and_configuration_round_trip(model: CLIP) -> None:
    twin = CLIP(ClipConfig.from_dict(asdict(TINY)))
    twin.load_state_dict(model.state_dict())
    images, tokens = torch.randn(3, 3, 12, 12), texts(3)
    assert torch.equal(twin.encode_image(images), model.encode_image(images))
    assert torch.equal(twin.encode_text(tokens), model.encode_text(tokens))


def test_the_text_tower_stands_alone(model: CLIP) -> None:
    tower = TextTower(TINY.text, TINY.embed_dim)
    own = {name: value for name, value in model.state_dict().items() if not name.startswith(("visual.", "logit_scale"))}
    tower.load_state_dict(own)
    assert torch.equal(tower.encode_text(texts(3)), model.encode_text(texts(3)))


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: VisionConfig(30, 4, 24, 2, 3), "VisionConfig.image_size must be a multiple of patch_size, 4; got 30"),
        (lambda: VisionConfig(12, 4, 25, 2, 3), "VisionConfig.heads must divide the width 25; got 3"),
        (lambda: TextConfig(9, 40, 16, 0, 2), r"TextConfig.layers must be at least 1; got 0"),
        (lambda: ClipConfig(0, TINY.vision, TINY.text), r"ClipConfig.embed_dim must be at least 1; got 0"),
    ],
)
def test_impossible_shapes_are_refused(make, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        make()
