"""The specification itself: ``backend="reference"`` against the textbook's expressions, in float64."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from helpers import BIAS, CLIP, INFO_NCE, NT_XENT, SIGLIP, Loss, each_normalize, error, random_pairs, run
from torch import Tensor

SCALE = 4.0  # and NT-Xent's temperature 1 / 4: both exact in float32
TARGETS = torch.tensor([2, -100, 0, 1])


def textbook_clip(logits: Tensor, reduction: str = "mean") -> Tensor:
    labels = torch.arange(len(logits))
    both = [F.cross_entropy(z, labels, reduction=reduction) for z in (logits, logits.t())]
    return (both[0] + both[1]) / 2


def textbook_siglip(logits: Tensor, reduction: str = "mean") -> Tensor:
    labels = 2 * torch.eye(len(logits), dtype=logits.dtype) - 1
    per_row = -F.logsigmoid(labels * (logits + BIAS)).sum(1)
    return {"none": per_row, "sum": per_row.sum(), "mean": per_row.sum() / len(logits)}[reduction]


def textbook_info_nce(logits: Tensor, reduction: str = "mean") -> Tensor:
    return F.cross_entropy(logits, torch.arange(len(logits)), reduction=reduction)


def textbook_nt_xent(logits: Tensor, reduction: str = "mean") -> Tensor:
    views = len(logits)
    others = logits.masked_fill(torch.eye(views, dtype=torch.bool), -torch.inf)
    return F.cross_entropy(others, torch.arange(views).roll(views // 2), reduction=reduction)


TEXTBOOK = {CLIP: textbook_clip, INFO_NCE: textbook_info_nce, NT_XENT: textbook_nt_xent, SIGLIP: textbook_siglip}


@each_normalize
@pytest.mark.parametrize("reduction", ["mean", "sum", "none"])
@pytest.mark.parametrize("n", [1, 2, 33])
@pytest.mark.parametrize("loss", TEXTBOOK, ids=lambda loss: loss.name)
def test_values_and_gradients_are_the_textbooks(loss: Loss, n: int, reduction: str, normalize: bool) -> None:
    a, b = (x.requires_grad_() for x in random_pairs(n, 17, unit=False))
    left, right = (F.normalize(a, dim=1), F.normalize(b, dim=1)) if normalize else (a, b)
    if loss == NT_XENT:
        left = right = torch.cat([left, right])
    want = TEXTBOOK[loss](SCALE * left @ right.t(), reduction)
    upstream = torch.linspace(0.5, 2, want.numel(), dtype=torch.float64).view(want.shape)
    want.backward(upstream)
    options = {"normalize": normalize, "reduction": reduction, "upstream": upstream}
    got = run(loss, a, b, SCALE, backend="reference", **options)
    assert error(got.value, want.detach()) < 1e-12
    assert error(got.grads["a"], a.grad) < 1e-11
    assert error(got.grads["b"], b.grad) < 1e-11


@pytest.mark.parametrize("reduction", ["mean", "sum", "none"])
def test_info_nce_ignores_and_shares_keys_as_cross_entropy_does(reduction: str) -> None:
    a, b = random_pairs(3, 7, m=4)
    targets = torch.tensor([1, -100, 1, 0])  # two queries share a key
    want = F.cross_entropy(SCALE * a @ b.t(), targets, ignore_index=-100, reduction=reduction)
    got = INFO_NCE(a, b, SCALE, targets=targets, reduction=reduction, backend="reference")
    assert error(got, want) < 1e-12


@pytest.mark.parametrize("reduction", ["mean", "sum", "none"])
def test_clip_with_targets_averages_each_direction_over_its_pairs(reduction: str) -> None:
    a, b = random_pairs(3, 7, m=4)
    logits = SCALE * a @ b.t()
    images, texts = torch.tensor([0, 2, 3]), torch.tensor([2, 0, 1])  # the pairs of TARGETS; image 1 is a negative only
    by_image = F.cross_entropy(logits[images], texts, reduction="none")
    by_text = F.cross_entropy(logits.t()[texts], images, reduction="none")
    half = (by_image + by_text) / 2
    want = {"sum": half.sum(), "mean": half.mean(), "none": torch.zeros(4, dtype=torch.float64).index_put((images,), half)}
    got = CLIP(a, b, SCALE, targets=TARGETS, reduction=reduction, backend="reference")
    assert error(got, want[reduction]) < 1e-12


def test_a_text_without_an_image_is_a_negative_only() -> None:
    a, b = random_pairs(5, 7, m=3)
    targets = torch.tensor([4, 0, 2])
    logits = SCALE * a @ b.t()
    rows = F.cross_entropy(logits, targets)
    cols = F.cross_entropy(logits.t()[targets], torch.arange(3))
    assert error(CLIP(a, b, SCALE, targets=targets, backend="reference"), (rows + cols) / 2) < 1e-12


def test_identity_targets_change_nothing() -> None:
    a, b = random_pairs(9, 7)
    for loss in (CLIP, INFO_NCE):
        for backend in ("reference", "torch"):
            plain = loss(a, b, SCALE, backend=backend)
            assert error(loss(a, b, SCALE, targets=torch.arange(9), backend=backend), plain) < 1e-14
