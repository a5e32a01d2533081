"""Inputs, noise and comparisons for the tests against other projects' models."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

from clipfast.models import CLIP, export_state_dict, load_checkpoint

LIMIT = 1e-5


@torch.no_grad()
def shaken(module: nn.Module, seed: int = 0, size: float = 0.05) -> nn.Module:
    """``module`` in evaluation mode with noise on every parameter and running statistic, as zeros and ones hide errors."""
    random = torch.Generator().manual_seed(seed)
    for name, value in module.state_dict().items():
        if not value.is_floating_point():
            continue
        noise = torch.randn(value.shape, generator=random)
        if name.endswith("running_var"):
            value.copy_(1 + 0.3 * noise.tanh())
        else:
            value.add_((size * noise).to(value.dtype))
    return module.eval()


def gap(ours: Tensor, theirs: Tensor) -> float:
    """The largest difference, in units of the largest value."""
    assert ours.shape == theirs.shape
    assert theirs.abs().max() > 1e-3, "features near zero would hide a difference"
    return ((ours - theirs).abs().max() / theirs.abs().max()).item()


def images_for(model: CLIP, count: int = 3, seed: int = 1) -> Tensor:
    vision = model.config.vision
    shape = (count, vision.channels, vision.image_size, vision.image_size)
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


def texts_for(model: CLIP, count: int = 4, seed: int = 2) -> Tensor:
    """Random ids. In each row the last id of the vocabulary ends the text at a random place, and zeros follow."""
    random = torch.Generator().manual_seed(seed)
    length, end = model.context_length, model.vocab_size - 1
    ids = torch.randint(1, end, (count, length), generator=random)
    if getattr(model.text_config, "pool", None) == "last":
        return ids
    ends = torch.randint(1, length, (count, 1), generator=random)
    at = torch.arange(length)
    return torch.where(at < ends, ids, torch.where(at == ends, end, 0))


@torch.no_grad()
def gaps(model: CLIP, image: Callable[[Tensor], Tensor], text: Callable[[Tensor], Tensor]) -> dict[str, float]:
    """How far the features and the logits are from those of the peer's functions."""
    model.eval()
    images, texts = images_for(model), texts_for(model)
    their_image, their_text = image(images), text(texts)
    cosines = nn.functional.normalize(their_image, dim=-1) @ nn.functional.normalize(their_text, dim=-1).T
    logits = model.logit_scale.exp() * cosines + (0.0 if model.logit_bias is None else model.logit_bias)
    return {
        "image": gap(model.encode_image(images), their_image),
        "text": gap(model.encode_text(texts), their_text),
        "logits": gap(model(images, texts)[0], logits),
    }


def assert_conforms(model: CLIP, theirs: nn.Module, image: Any, text: Any, layout: str = "open_clip") -> None:
    """With the peer's weights, features and logits are the peer's, and its own state dict comes back bit for bit."""
    state = theirs.state_dict()
    load_checkpoint(model, state)
    found = gaps(model, image, text)
    print(f"largest differences: { {name: f'{value:.1e}' for name, value in found.items()} }")
    assert max(found.values()) <= LIMIT, found
    written = export_state_dict(model, layout)
    assert written.keys() == state.keys()
    assert all(torch.equal(written[name], value) for name, value in state.items())
    theirs.load_state_dict(written)
