"""The modules against open_clip's own, in the same process: values and gradients. Skipped where it is not installed."""

from __future__ import annotations

import pytest
import torch
from helpers import converged_pairs, error, random_pairs

import clipfast
from clipfast.bench.peers import open_clip_losses

try:
    open_clip = open_clip_losses()
except ModuleNotFoundError as missing:
    pytest.skip(str(missing), allow_module_level=True)
FEATURES = {
    "untrained": random_pairs(200, 48),
    "converged": converged_pairs(200, 48, 0.4),
    "four pairs": random_pairs(4, 48),
}


def both(ours: torch.nn.Module, theirs: torch.nn.Module, kind: str, dtype: torch.dtype, *scalars: float, **options):
    results = []
    for module in (ours, theirs):
        leaves = [x.to(dtype).clone().requires_grad_() for x in FEATURES[kind]]
        leaves += [torch.tensor(x, dtype=dtype, requires_grad=True) for x in scalars]
        value = module(*leaves, **options)
        if options.get("output_dict"):
            assert list(value) == ["contrastive_loss"]
            value = value["contrastive_loss"]
        value.backward()
        results.append([value.detach(), *(x.grad for x in leaves)])
    return results


@pytest.mark.parametrize("output_dict", [False, True])
@pytest.mark.parametrize("kind", FEATURES)
def test_clip_loss_is_open_clips(kind: str, output_dict: bool) -> None:
    ours, theirs = both(clipfast.ClipLoss(), open_clip.ClipLoss(), kind, torch.float64, 14.3, output_dict=output_dict)
    assert max(error(x, y) for x, y in zip(ours, theirs, strict=True)) < 1e-9


def test_clip_loss_with_a_bias_is_open_clips() -> None:
    ours, theirs = both(clipfast.ClipLoss(), open_clip.ClipLoss(), "untrained", torch.float64, 14.3, -3.0)
    assert max(error(x, y) for x, y in zip(ours[:4], theirs[:4], strict=True)) < 1e-9
    assert ours[4] == 0
    assert abs(theirs[4]) < 1e-12  # 0 but for rounding


@pytest.mark.parametrize("output_dict", [False, True])
@pytest.mark.parametrize("kind", FEATURES)
def test_siglip_loss_is_open_clips(kind: str, output_dict: bool) -> None:
    ours, theirs = both(
        clipfast.SigLipLoss(), open_clip.SigLipLoss(), kind, torch.float64, 10.0, -10.0, output_dict=output_dict
    )
    assert max(error(x, y) for x, y in zip(ours, theirs, strict=True)) < 1e-9


def test_float32_is_open_clips_within_float32() -> None:
    for ours, theirs, scalars in (
        (clipfast.ClipLoss(), open_clip.ClipLoss(), (14.3,)),
        (clipfast.SigLipLoss(), open_clip.SigLipLoss(), (10.0, -10.0)),
    ):
        mine, other = both(ours, theirs, "untrained", torch.float32, *scalars)
        assert max(error(x, y) for x, y in zip(mine, other, strict=True)) < 1e-5


@pytest.mark.parametrize("name", ["ClipLoss", "SigLipLoss"])
def test_the_constructor_takes_open_clips_arguments(name: str) -> None:
    import inspect

    ours = inspect.signature(getattr(clipfast, name)).parameters
    theirs = inspect.signature(getattr(open_clip, name)).parameters
    assert {k: p.default for k, p in ours.items() if p.kind != p.KEYWORD_ONLY} == {k: p.default for k, p in theirs.items()}
    mine, other = (inspect.signature(getattr(m, name).forward).parameters for m in (clipfast, open_clip))
    assert {k: p.default for k, p in mine.items()} == {k: p.default for k, p in other.items()}
