"""Inputs that break contrastive losses: the right answer or a clear error, never a silent infinity or NaN."""

from __future__ import annotations

import math

import pytest
import torch
import torch.nn.functional as F
from helpers import (
    BIAS,
    CLIP,
    INFO_NCE,
    NT_XENT,
    SIGLIP,
    SWEEPS,
    Loss,
    assert_close,
    each_loss,
    each_normalize,
    each_softmax_loss,
    error,
    exact,
    exact_path_calls,
    random_pairs,
    run,
)
from torch import Tensor

EVERY = pytest.mark.parametrize("backend", [*SWEEPS, "reference"])
SWEPT = pytest.mark.parametrize("backend", SWEEPS)


def unit(n: int, d: int, seed: int = 0) -> Tensor:
    return random_pairs(n, d, seed=seed)[0].float()


def assert_right(loss: Loss, a: Tensor, b: Tensor, scale: float, bias: float | None = None, **options) -> None:
    """Value and gradients within float32's precision of the dense ones in float64, which must be finite themselves."""
    backend = options.pop("backend")
    want = exact(loss, a, b, scale, bias, **options)
    assert all(x.isfinite().all() for x in (want.value, *want.grads.values()))
    assert_close(run(loss, a, b, scale, bias, backend=backend, **options), want, value=1e-5, grad=1e-4)


@each_loss
@EVERY
@each_normalize
def test_positives_at_cosine_minus_one(loss: Loss, backend: str, normalize: bool) -> None:
    a = unit(150, 32)
    assert_right(loss, a, -a, 100.0, normalize=normalize, backend=backend)


@each_loss
@EVERY
def test_logits_of_ten_thousand(loss: Loss, backend: str) -> None:
    """Unnormalised features, logits of +-1e4: far outside one float32 window."""
    a, b = unit(140, 16), unit(140, 16, seed=1)
    b[::3] = a[::3]  # some pairs agree fully, the others are wrong by thousands
    assert (1000 * a @ b.t()).abs().max() > 990
    # The products themselves round by 6e-8 * 1e4 in float32, so the features are whole numbers: their sums are exact.
    a, b = (200 * a).round(), (50 * b).round()
    assert (a @ b.t()).abs().max() > 9000
    want = exact(loss, a, b, 1.0)
    assert_close(run(loss, a, b, 1.0, backend=backend), want, value=1e-5, grad=1e-4)


@each_loss
@EVERY
@each_normalize
def test_all_rows_identical(loss: Loss, backend: str, normalize: bool) -> None:
    a = unit(1, 8).expand(130, 8)
    want = exact(loss, a, a, 50.0, normalize=normalize)
    got = run(loss, a, a, 50.0, normalize=normalize, backend=backend)
    assert error(got.value, want.value) < 1e-6
    # Gradients that cancel, wholly or by the projection: small beside the terms that do, of which SigLIP has N.
    terms = 50 if loss == SIGLIP else 50 / 130
    for name in ("a", "b"):
        assert (got.grads[name] - want.grads[name]).norm(dim=1).max() < 1e-5 * terms


@each_loss
@EVERY
def test_zero_rows_follow_normalize(loss: Loss, backend: str) -> None:
    """``F.normalize`` divides by max(norm, 1e-12): a zero row stays zero, and its gradient is divided by 1e-12."""
    a, b = unit(130, 8), unit(130, 8, seed=1)
    a[[0, 77]], b[[3, 77]] = 0.0, 0.0
    want = exact(loss, a, b, 10.0, normalize=True)
    got = run(loss, a, b, 10.0, normalize=True, backend=backend)
    assert_close(got, want, value=1e-6, grad=1e-5)
    others = torch.ones(130, dtype=torch.bool).index_fill(0, torch.tensor([0, 3, 77]), False)
    for name in ("a", "b"):  # the zero rows' huge gradients must not hide an error in the others
        assert error(got.grads[name][others], want.grads[name][others]) < 1e-5
    dense = [x.double().requires_grad_() for x in (a, b)]
    if loss == INFO_NCE:
        left, right = (F.normalize(x, dim=1) for x in dense)
        F.cross_entropy(10 * left @ right.t(), torch.arange(130)).backward()
        assert error(got.grads["a"], dense[0].grad) < 1e-5


@each_loss
@EVERY
@each_normalize
@pytest.mark.parametrize("norm", [1e-18, 1e-9, 1e9, 1e15])
def test_norms_far_from_one(loss: Loss, backend: str, normalize: bool, norm: float) -> None:
    a, b = norm * unit(130, 8), unit(130, 8, seed=1) / (1 if normalize else norm)
    want = exact(loss, a, b, 10.0, normalize=normalize)
    got = run(loss, a, b, 10.0, normalize=normalize, backend=backend)
    tolerance = {"value": 1e-5, "grad": 1e-4}
    if loss == NT_XENT and not normalize:
        return  # its sides meet themselves: this is another regime there
    assert_close(got, want, **tolerance)


@each_normalize
@EVERY
@pytest.mark.parametrize("scale", [0.0, -20.0])
@pytest.mark.parametrize("loss", [CLIP, INFO_NCE, SIGLIP], ids=lambda loss: loss.name)
def test_zero_and_negative_scale(loss: Loss, scale: float, backend: str, normalize: bool) -> None:
    assert_right(loss, unit(130, 8), unit(130, 8, seed=1), scale, normalize=normalize, backend=backend)


@EVERY
def test_negative_and_zero_temperature(backend: str) -> None:
    a, b = unit(130, 8), unit(130, 8, seed=1)
    assert_right(NT_XENT, a, b, -20.0, normalize=True, backend=backend)
    if backend == "reference":
        assert NT_XENT(a, b, 0.0, backend=backend).isnan()  # as the dense loss, whose logits are infinite
    else:
        with pytest.raises(ValueError, match=r"the scale must be finite; got inf \(a temperature of 0"):
            NT_XENT(a, b, 0.0, backend=backend)


@each_loss
@EVERY
@each_normalize
def test_a_single_pair(loss: Loss, backend: str, normalize: bool) -> None:
    a, b = unit(1, 5), unit(1, 5, seed=1)
    got = run(loss, a, b, 10.0, normalize=normalize, backend=backend)
    want = exact(loss, a, b, 10.0, normalize=normalize)
    assert_close(got, want, value=1e-6, grad=1e-5)
    if loss != SIGLIP:  # nothing to tell the positive from
        assert got.value == 0
        assert not any(g.any() for g in got.grads.values())


@each_loss
@SWEPT
def test_many_pairs_in_two_dimensions(loss: Loss, backend: str) -> None:
    """20,000 rows on a circle, thousands of near-ties in each; the dense matrix alone would take 3.2 GB in float64."""
    n, few, scale = loss.pairs(20_000), 500, 30.0
    a, b = unit(n, 2), F.normalize(unit(n, 2) + 0.1 * unit(n, 2, seed=1), dim=1)
    leaves = [x.clone().requires_grad_() for x in (a, b)]
    rows = loss(*leaves, loss.knob(scale), normalize=False, backend=backend, reduction="none")
    rows[:few].sum().backward()
    # The dense loss of the first rows, which for the one-sided losses is a smaller matrix.
    a, b = (x.double().requires_grad_() for x in (a, b))
    columns = torch.cat([a, b]) if loss == NT_XENT else b
    z = scale * a[:few] @ columns.t()
    if loss == NT_XENT:
        z = z.masked_fill(torch.eye(few, len(columns), dtype=torch.bool), -torch.inf)
    first = n if loss == NT_XENT else 0
    if loss == SIGLIP:
        want = -F.logsigmoid((2 * torch.eye(few, n, dtype=torch.float64) - 1) * (z + BIAS)).sum(1)
    else:
        want = F.cross_entropy(z, torch.arange(first, first + few), reduction="none")
    if loss == CLIP:  # half of each pair's two losses
        back = scale * b[:few] @ a.t()
        want = (want + F.cross_entropy(back, torch.arange(few), reduction="none")) / 2
    want.sum().backward()
    assert error(rows[:few].detach(), want.detach()) < 1e-6
    assert all(error(got.grad, x.grad) < 1e-4 for got, x in zip(leaves, (a, b), strict=True))


@each_softmax_loss
@SWEPT
@each_normalize
def test_underflowing_negatives_take_the_exact_path(loss: Loss, backend: str, normalize: bool) -> None:
    """Every negative of row 0 lies 200 below the shift: its sum is 0 in float32, though its loss is ordinary."""
    a, b = unit(150, 8), unit(150, 8, seed=1)
    b[:, 0] = a[1:, 0] = 5.0
    a[0] = -b.mean(0)
    if loss == NT_XENT:
        a[0] = -torch.cat([a[1:], b]).mean(0)
    a, b = (F.normalize(x, dim=1) for x in (a, b))
    with exact_path_calls() as calls:
        assert_right(loss, a, b, 150.0, normalize=normalize, backend=backend)
    assert calls, "the fast path served, so this tested nothing"


@each_softmax_loss
@SWEPT
def test_ordinary_features_do_not_take_the_exact_path(loss: Loss, backend: str) -> None:
    with exact_path_calls() as calls:
        run(loss, unit(150, 64), unit(150, 64, seed=1), 100.0, backend=backend)
    assert not calls


@each_loss
@SWEPT
@each_normalize
def test_norms_that_overflow_float32_are_an_error(loss: Loss, backend: str, normalize: bool) -> None:
    a, b = 1e19 * unit(130, 8), 1e19 * unit(130, 8, seed=1)
    with pytest.raises(ValueError, match=r"norms must have a product .* torch\.float32 ends; got 1\.0e\+19 and 1\.0e\+19"):
        run(loss, a, b, 1.0, normalize=normalize, backend=backend)


@each_loss
@EVERY
@each_normalize
@pytest.mark.parametrize("bad", [math.nan, math.inf])
def test_nan_in_gives_nan_out_and_infinity_nothing_finite(loss: Loss, backend: str, normalize: bool, bad: float) -> None:
    a, b = unit(130, 8), unit(130, 8, seed=1)
    a[7, 3] = bad
    got = run(loss, a, b, 10.0, normalize=normalize, backend=backend)
    # The dense SigLIP gives infinity for an infinite feature, and its sigmoids' saturated gradients.
    assert not got.value.isfinite()
    assert got.value.isnan() or math.isinf(bad)
    if math.isnan(bad) or loss != SIGLIP:
        assert not any(got.grads[name].isfinite().all() for name in ("b", "scale"))
        assert got.grads["a"][7].isnan().any()


@each_loss
@EVERY
def test_a_nan_scale_gives_nan_out(loss: Loss, backend: str) -> None:
    got = run(loss, unit(130, 8), unit(130, 8, seed=1), math.nan, backend=backend)
    assert got.value.isnan()
    assert got.grads["a"].isnan().all()
