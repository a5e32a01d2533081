"""What must not change a result: memory layout, reductions, who asks for gradients. And what the statistics say."""

from __future__ import annotations

import pytest
import torch
from helpers import (
    CLIP,
    LOSSES,
    SIGLIP,
    SWEEPS,
    Loss,
    counted_products,
    each_loss,
    each_normalize,
    each_sweep,
    error,
    random_pairs,
)
from torch import Tensor

import clipfast

A, B = (x.float() for x in random_pairs(140, 16))
N, D = A.shape
EVERY = pytest.mark.parametrize("backend", [*SWEEPS, "reference"])


def gradients(loss: Loss, a: Tensor, b: Tensor, **options) -> list[Tensor]:
    a, b = a.detach().requires_grad_(), b.detach().requires_grad_()
    value = loss(a, b, 10.0, **options)
    return [value.detach(), *torch.autograd.grad(value, (a, b))]


LAYOUTS = {
    "transposed": lambda x: x.t().contiguous().t(),
    "every second row": lambda x: x.repeat_interleave(2, 0)[::2],
    "every third column": lambda x: x.repeat_interleave(3, 1)[:, ::3],
    "a slice of a wider matrix": lambda x: torch.cat([x, x, x], 1)[:, D : 2 * D],
    "offset": lambda x: torch.cat([x[:1], x])[1:],
    "flipped": lambda x: x.flip(0).flip(0),
}


@each_loss
@EVERY
@pytest.mark.parametrize("layout", LAYOUTS)
def test_layouts_change_nothing(loss: Loss, backend: str, layout: str) -> None:
    want = gradients(loss, A, B, backend=backend)
    for a, b in ((LAYOUTS[layout](A), B), (A, LAYOUTS[layout](B)), (LAYOUTS[layout](A), LAYOUTS[layout](B))):
        got = gradients(loss, a, b, backend=backend)
        assert all(error(x, y) < 1e-6 for x, y in zip(got, want, strict=True))


@each_loss
@EVERY
def test_an_expanded_row(loss: Loss, backend: str) -> None:
    want = gradients(loss, A, B[:1].repeat(N, 1), backend=backend)
    got = gradients(loss, A, B[:1].expand(N, D), backend=backend)
    assert all(error(x, y) < 1e-5 for x, y in zip(got, want, strict=True))


@each_loss
@EVERY
@each_normalize
def test_reductions_agree(loss: Loss, backend: str, normalize: bool) -> None:
    """The gradient of a sum reaches the operators as one number expanded to a vector, others dense or strided."""

    def results(reduction: str, upstream: Tensor | float, then_sum: bool = False) -> list[Tensor]:
        leaves = [x.clone().requires_grad_() for x in (A, B)]
        value = loss(*leaves, loss.knob(10.0), reduction=reduction, normalize=normalize, backend=backend)
        total = value.sum() if then_sum else value
        total.backward(torch.as_tensor(upstream))
        return [value.detach().sum(), *(x.grad for x in leaves)]

    rows = 2 * N if loss.name == "nt_xent" else N
    mean = results("mean", 1.0)
    others = [
        results("sum", 1 / rows),
        results("none", torch.full((rows,), 1 / rows)),
        results("none", torch.full((2 * rows,), 1 / rows)[::2]),
        results("none", torch.tensor(1 / rows).expand(rows)),
        results("none", 1 / rows, then_sum=True),
    ]
    for value, *grads in others:
        assert error(value / rows, mean[0]) < 1e-6
        assert all(error(x, y) < 1e-5 for x, y in zip(grads, mean[1:], strict=True))


ASKED = {
    # who asks -> the share of the two products that it costs, for the losses with two sides
    ("a", "b", "scale"): (1, 1),
    ("a",): (1, 0),
    ("b",): (0, 1),
    ("b", "scale"): (0, 1),
    ("scale",): (1, 0),
    (): (0, 0),
}


@each_sweep
@pytest.mark.parametrize("asked", ASKED, ids=lambda names: "+".join(names) or "nothing")
@pytest.mark.parametrize("reduction", ["mean", "sum"])
@pytest.mark.parametrize("loss", [LOSSES[0], LOSSES[1], SIGLIP], ids=lambda loss: loss.name)
def test_what_is_not_asked_for_is_not_computed(loss: Loss, asked: tuple[str, ...], reduction: str, backend: str) -> None:
    everything = {"a": A.clone(), "b": B.clone(), "scale": torch.tensor(10.0)}
    wanted = [everything[name].requires_grad_() for name in asked]
    with counted_products(backend) as counts:
        value = loss(*everything.values(), reduction=reduction, backend=backend)
        grads = torch.autograd.grad(value, wanted) if wanted else ()
    assert (counts["add_rows"], counts["add_cols"]) == tuple(share * N * N * D for share in ASKED[asked])
    passes = 1 if loss != SIGLIP or reduction == "mean" or not asked else 2  # the others keep pass 1's tiles
    assert counts["scores"] == passes * N * N * D
    full = {name: x.detach().clone().requires_grad_() for name, x in everything.items()}
    loss(*full.values(), reduction=reduction, backend=backend).backward()
    want = [full[name].grad for name in asked]
    assert all(error(x, y) < 1e-5 for x, y in zip(grads, want, strict=True))


@each_loss
@each_sweep
def test_no_grad_costs_no_gradient(loss: Loss, backend: str) -> None:
    a, b, scale = A.clone().requires_grad_(), B.clone().requires_grad_(), torch.tensor(0.5, requires_grad=True)
    with counted_products(backend) as counts, torch.no_grad():
        value = loss(a, b, scale, backend=backend)
    assert not value.requires_grad
    assert counts["add_rows"] == counts["add_cols"] == 0


@each_sweep
def test_a_triangle_of_scores_is_half_the_work(backend: str) -> None:
    """NT-Xent over 2N = 4096 views: 10 of 16 tiles of 1024."""
    views = 4096
    a, b = (x.float().requires_grad_() for x in random_pairs(views // 2, 4))
    with counted_products(backend) as counts:
        clipfast.nt_xent_loss(a, b, 0.1, backend=backend).backward()
    assert counts["scores"] <= views**2 * 4 * 10 / 16
    assert counts["add_rows"] + counts["add_cols"] <= views**2 * 4


@EVERY
@each_normalize
@pytest.mark.parametrize("bias", [None, -3.0])
@pytest.mark.parametrize("paired", ["square", "targets"])
def test_statistics_are_the_dense_ones(backend: str, normalize: bool, bias: float | None, paired: str) -> None:
    a, b = random_pairs(130, 16, m=140) if paired == "targets" else random_pairs(140, 16)
    targets, labels = None, torch.arange(140)
    if paired == "targets":
        targets = labels = labels.masked_fill(labels >= 120, -100).roll(7)
    b[labels[20:80]] += a[20:80]  # so that some positives win
    a, b = a.float(), b.float()
    loss, stats = CLIP(a, b, 10.0, bias, normalize=normalize, backend=backend, targets=targets, return_stats=True)
    assert torch.equal(loss, CLIP(a, b, 10.0, bias, normalize=normalize, backend=backend, targets=targets))
    left, right = (torch.nn.functional.normalize(x.double(), dim=1) if normalize else x.double() for x in (a, b))
    z = 10.0 * left @ right.t() + (bias or 0.0)
    rows = (labels >= 0).nonzero().squeeze(1)
    cols = labels[rows]
    positives = torch.zeros(140, dtype=torch.float64).index_put((rows,), z[rows, cols])
    assert error(stats.image_lse, z.logsumexp(1)) < 1e-6
    assert error(stats.text_lse, z.logsumexp(0)) < 1e-6
    assert error(stats.positive_logits, positives) < 1e-6
    assert stats.image_to_text_accuracy == (z[rows].argmax(1) == cols).float().mean()
    assert stats.text_to_image_accuracy == (z[:, cols].argmax(0) == rows).float().mean()
    assert 0 < stats.image_to_text_accuracy < 1
    assert not any(x.requires_grad for x in stats)


def test_a_bias_changes_no_clip_loss_and_has_a_zero_gradient() -> None:
    a, bias = A.clone().requires_grad_(), torch.tensor(5.0, requires_grad=True)
    value = CLIP(a, B, 10.0, bias)
    value.backward()
    assert torch.equal(value, CLIP(A, B, 10.0))
    assert bias.grad == 0
