"""Losses and gradients of every kind of model; checkpointing, compilation, autocast, locking."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace

import pytest
import torch
import torch.nn.functional as F
from peer_imports import peer
from tiny_models import TINY, batch_for, tiny
from torch import Tensor, nn

from clipfast.models import CLIP
from clipfast.models import clip_model as clip
from clipfast.models.resnet import Bottleneck
from clipfast.models.transformer import ResidualAttentionBlock

pytestmark = pytest.mark.usefixtures("one_thread")


@pytest.fixture
def fresh_compiler() -> Iterator[None]:
    torch._dynamo.reset()
    yield
    torch._dynamo.reset()


def gradients(model: CLIP, loss: Tensor) -> dict[str, Tensor]:
    model.zero_grad()
    loss.backward()
    return {name: p.grad for name, p in model.named_parameters() if p.grad is not None}


# The exact gradient of a key bias is zero, as softmax does not change when all logits of a row shift by one number. What is
# computed is the rounding of a sum over positions whose terms cancel. The gradient of the keys' weight sums the same terms
# multiplied by features of order 1, which do not cancel: its norm has the size of the terms, and tells that of the rounding.
# The ratio of the two norms is 0.2 to 0.35 float32 epsilons for several seeds; a wrong gradient has the size of the terms.
NO_GRADIENT = {"visual.attnpool.k_proj.bias": "visual.attnpool.k_proj.weight"}
ROUNDING = 2 * torch.finfo(torch.float32).eps


def assert_close(ours: dict[str, Tensor], theirs: dict[str, Tensor], tolerance: float) -> None:
    assert ours.keys() == theirs.keys()
    for name, expected in theirs.items():
        if name in NO_GRADIENT:
            limit = ROUNDING * theirs[NO_GRADIENT[name]].norm()
            assert ours[name].norm() <= limit, f"{name}: {ours[name].norm()}, not the rounding of 0"
            assert expected.norm() <= limit, f"{name}: {expected.norm()} is expected, not the rounding of 0"
            continue
        difference = (ours[name] - expected).norm()
        assert difference <= tolerance * expected.norm() + 1e-7, f"{name}: {difference} of {expected.norm()}"


@pytest.mark.parametrize("wrong", ["ours", "theirs", "both"])
def test_a_gradient_that_must_be_zero_is_told_from_rounding(wrong: str) -> None:
    model = tiny("RN")
    right = gradients(model, model.contrastive_loss(*batch_for(model)))
    assert_close(right, right, 0.0)
    (bias,), (weight,) = NO_GRADIENT, NO_GRADIENT.values()
    off = right | {bias: torch.full_like(right[bias], 1e-6 * right[weight].norm().item() / right[bias].numel() ** 0.5)}
    with pytest.raises(AssertionError, match=r"k_proj.bias: .* not the rounding of 0"):
        assert_close(off if wrong != "theirs" else right, off if wrong != "ours" else right, 1e-4)


def dense_loss(model: CLIP, images: Tensor, texts: Tensor) -> Tensor:
    per_image, per_text = model(images, texts)
    if model.logit_bias is not None:
        return -F.logsigmoid((2 * torch.eye(len(images)) - 1) * per_image).sum() / len(images)
    labels = torch.arange(len(images))
    return (F.cross_entropy(per_image, labels) + F.cross_entropy(per_text, labels)) / 2


@pytest.mark.parametrize("kind", TINY)
def test_the_loss_and_every_gradient_are_the_dense_ones(kind: str) -> None:
    model = tiny(kind)
    batch = batch_for(model)
    fused, dense = model.contrastive_loss(*batch), dense_loss(model, *batch)
    torch.testing.assert_close(fused, dense, rtol=1e-5, atol=1e-6)
    ours = gradients(model, fused)
    assert ours.keys() == {name for name, _ in model.named_parameters()}
    assert_close(ours, gradients(model, dense_loss(model, *batch)), 1e-4)


def test_options_go_to_the_loss() -> None:
    model = tiny("SigLIP")
    batch = batch_for(model)
    rows = model.contrastive_loss(*batch, reduction="none", backend="reference")
    assert rows.shape == (6,)
    torch.testing.assert_close(rows.mean(), model.contrastive_loss(*batch))
    with pytest.raises(TypeError, match="temperature"):
        model.contrastive_loss(*batch, temperature=1.0)


@pytest.mark.parametrize("towers", [("image", "text"), "image", ["text"]])
@pytest.mark.parametrize("kind", TINY)
def test_checkpointing_computes_twice_and_changes_nothing(kind: str, towers: object) -> None:
    plain, saving = tiny(kind), tiny(kind)
    saving.set_grad_checkpointing(towers=towers)
    calls = {"image": 0, "text": 0}
    for name, module in saving.named_modules():
        if isinstance(module, ResidualAttentionBlock | Bottleneck):
            side = "image" if name.startswith("visual.") else "text"
            module.register_forward_pre_hook(lambda *_, side=side: calls.update({side: calls[side] + 1}))
    batch = batch_for(plain)
    expected = gradients(plain, plain.contrastive_loss(*batch))
    assert_close(gradients(saving, saving.contrastive_loss(*batch)), expected, 1e-6)
    blocks = {"image": 5 if kind == "RN" else 3, "text": 0 if kind == "CBOW" else 2}
    assert calls == {side: count * (1 + (side in towers)) for side, count in blocks.items()}
    for name, value in saving.named_buffers():  # batch norms count each batch once
        torch.testing.assert_close(value, plain.get_buffer(name), msg=name)


def test_checkpointing_is_for_training_and_can_be_turned_off() -> None:
    model = tiny("ViT")
    model.set_grad_checkpointing()
    assert model.visual.transformer.grad_checkpointing
    model.set_grad_checkpointing(False, towers=["text"])
    assert not model.transformer.grad_checkpointing
    assert model.visual.transformer.grad_checkpointing
    with pytest.raises(ValueError, match="towers must be 'image', 'text' or both; got 'sound'"):
        model.set_grad_checkpointing(towers=["sound"])


@pytest.mark.parametrize("kind", TINY)
def test_the_compiled_step_is_one_graph(kind: str, fresh_compiler: None) -> None:
    model = tiny(kind)
    batch = batch_for(model)
    eager = model.contrastive_loss(*batch)
    expected = gradients(model, eager)
    loss = torch.compile(model.contrastive_loss, fullgraph=True, backend="aot_eager")(*batch)
    torch.testing.assert_close(loss, eager, rtol=1e-5, atol=1e-6)
    assert_close(gradients(model, loss), expected, 1e-4)


def test_inductor_compiles_a_step(fresh_compiler: None) -> None:
    config = TINY["EVA02"]
    model = CLIP(replace(config, vision=replace(config.vision, layers=1), text=replace(config.text, layers=1)))
    batch = batch_for(model)
    eager = model.contrastive_loss(*batch)
    expected = gradients(model, eager)
    loss = torch.compile(model.contrastive_loss, fullgraph=True)(*batch)
    torch.testing.assert_close(loss, eager, rtol=1e-5, atol=1e-6)
    assert_close(gradients(model, loss), expected, 1e-4)


@pytest.mark.parametrize("kind", TINY)
def test_bfloat16_autocast(kind: str) -> None:
    model = tiny(kind)
    batch = batch_for(model)
    expected = model.contrastive_loss(*batch)
    exact = gradients(model, expected)
    with torch.autocast("cpu", torch.bfloat16):
        features = model.encode_image(batch[0]), model.encode_text(batch[1])
        loss = model.contrastive_loss(*batch)
    assert all(x.dtype == torch.bfloat16 for x in features)
    assert loss.dtype == torch.float32
    torch.testing.assert_close(loss, expected, rtol=0.03, atol=0)
    rounded = gradients(model, loss)
    assert rounded.keys() == exact.keys()
    flat, flat_exact = (torch.cat([g.flatten() for g in side.values()]) for side in (rounded, exact))
    assert F.cosine_similarity(flat, flat_exact, dim=0) > 0.98
    assert all(g.dtype == torch.float32 for g in rounded.values())


@pytest.mark.parametrize("kind", TINY)
def test_a_locked_image_tower_costs_no_gradient(kind: str, monkeypatch) -> None:
    model = tiny(kind)
    batch = batch_for(model)
    expected = gradients(model, model.contrastive_loss(*batch))
    model.lock_image_tower()
    asked = []
    for name in ("clip_loss", "siglip_loss"):
        original = getattr(clip, name)

        def watched(images: Tensor, *rest: object, original=original, **options: object) -> Tensor:
            asked.append(images.requires_grad)
            return original(images, *rest, **options)

        monkeypatch.setattr(clip, name, watched)
    found = gradients(model, model.contrastive_loss(*batch))
    assert asked == [False]
    assert_close(found, {name: g for name, g in expected.items() if not name.startswith("visual.")}, 1e-6)


@pytest.mark.parametrize("kind", TINY)
def test_groups_cover_the_tower_once(kind: str) -> None:
    model = tiny(kind)
    visual = model.visual
    parts = [part for group in visual.groups() for part in group]
    found = [p for part in parts for p in (part.parameters() if isinstance(part, nn.Module) else [part])]
    assert sorted(map(id, found)) == sorted(map(id, visual.parameters()))
    count = len(visual.groups())
    trainable = []
    for unlocked in range(count + 1):
        model.lock_image_tower(unlocked)
        trainable.append(sum(p.requires_grad for p in visual.parameters()))
    assert trainable == sorted(set(trainable))
    assert trainable[0] == 0
    assert trainable[-1] == len(list(visual.parameters()))
    assert all(p.requires_grad for name, p in model.named_parameters() if not name.startswith("visual."))
    with pytest.raises(ValueError, match=rf"unlocked_groups must be in \[0, {count}\]; got {count + 1}"):
        model.lock_image_tower(count + 1)


def test_groups_are_open_clip_s() -> None:
    model = tiny("ViT")
    size = {"layers": 3, "width": 48, "head_width": 16, "patch_size": 5, "image_size": 20}
    text = {"context_length": 9, "vocab_size": 97, "width": 32, "heads": 2, "layers": 2}
    for unlocked in range(len(model.visual.groups())):
        theirs = peer("open_clip.model").CLIP(24, size, text, quick_gelu=True)
        theirs.lock_image_tower(unlocked)
        model.lock_image_tower(unlocked)
        ours = {name: p.requires_grad for name, p in model.named_parameters()}
        assert ours == {name: p.requires_grad for name, p in theirs.named_parameters()}, unlocked


@pytest.mark.parametrize("freeze", [False, True])
def test_locked_batch_norms_keep_still_if_asked(freeze: bool) -> None:
    model = tiny("RN")
    model.lock_image_tower(1, freeze_bn_stats=freeze)
    before = {name: value.clone() for name, value in model.named_buffers()}
    model.train().contrastive_loss(*batch_for(model))
    same = [torch.equal(value, before[name]) for name, value in model.named_buffers()]
    assert all(same) if freeze else not any(same)
    model.lock_image_tower(6)
    assert all(module.training for module in model.modules())
