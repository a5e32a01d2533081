"""Small batches on the CPU: one C++ call for loss and gradients (single.py), chosen by itself."""

from __future__ import annotations

import pytest
import torch
from helpers import (
    CLIP,
    HALF,
    LOSSES,
    NEEDS_EXTENSION,
    Loss,
    assert_close,
    converged_pairs,
    each_normalize,
    error,
    exact,
    exact_path_calls,
    random_pairs,
    run,
)  # fmt: skip

import clipfast
from clipfast.compute import widening
from clipfast.losses.declaration import named
from clipfast.operators import single

pytestmark = NEEDS_EXTENSION
ONE_TILE = [loss for loss in LOSSES if named(loss.name).family.one_tile]
each_loss = pytest.mark.parametrize("loss", ONE_TILE, ids=lambda loss: loss.name)


@pytest.fixture(autouse=True)
def taken(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The calls that came this way: a test of another path would prove nothing."""
    calls: list[str] = []
    original = single.mean
    monkeypatch.setattr(single, "mean", lambda *args: calls.append(args[0]) or original(*args))
    return calls


@each_loss
@each_normalize
@pytest.mark.parametrize(("n", "d"), [(1, 3), (2, 3), (5, 17), (33, 64), (191, 40), (384, 64), (96, 512)])
def test_float32(loss: Loss, n: int, d: int, normalize: bool, taken: list[str]) -> None:
    a, b = (x.float() for x in random_pairs(loss.pairs(n), d, unit=not normalize))
    want = exact(loss, a, b, 14.3, normalize=normalize)
    assert_close(run(loss, a, b, 14.3, normalize=normalize), want, value=1e-6, grad=1e-5)
    assert taken


@each_loss
@pytest.mark.parametrize(("noise", "scale"), [(0.3, 25.0), (0.1, 100.0)])
def test_converged(loss: Loss, noise: float, scale: float, taken: list[str]) -> None:
    a, b = (x.float() for x in converged_pairs(loss.pairs(150), 64, noise))
    assert_close(run(loss, a, b, scale), exact(loss, a, b, scale), value=1e-4, grad=1e-4)
    assert taken


@each_loss
@pytest.mark.parametrize("dtype", HALF, ids=str)
def test_half_precision(loss: Loss, dtype: torch.dtype, taken: list[str]) -> None:
    a, b = (x.to(dtype) for x in random_pairs(loss.pairs(100), 64))
    got, want = run(loss, a, b, 14.3), exact(loss, a, b, 14.3)
    for name in ("a", "b"):
        rounding = error(want.grads[name].to(dtype), want.grads[name])
        assert error(got.grads[name], want.grads[name]) <= 1.2 * rounding + 1e-3
    assert error(got.value, want.value) < 1e-6
    assert taken


def test_more_keys_than_queries(taken: list[str]) -> None:
    queries, keys = (x.float() for x in random_pairs(70, 16, m=33))
    loss = next(x for x in LOSSES if x.name == "info_nce")
    assert_close(run(loss, queries, keys, 10.0), exact(loss, queries, keys, 10.0), value=1e-6, grad=1e-5)
    assert taken


@each_loss
@pytest.mark.parametrize("wanted", ["a", "b", "scale"])
def test_only_what_is_asked_for(loss: Loss, wanted: str, taken: list[str]) -> None:
    a, b = (x.float() for x in random_pairs(loss.pairs(20), 16))
    leaves = {"a": a, "b": b, "scale": torch.tensor(loss.knob(9.0))}
    leaves[wanted].requires_grad_()
    loss(leaves["a"], leaves["b"], leaves["scale"]).backward()
    assert error(leaves[wanted].grad, exact(loss, a, b, 9.0).grads[wanted]) < 1e-5
    assert taken
    with torch.no_grad():
        assert not loss(leaves["a"], leaves["b"], leaves["scale"]).requires_grad


@pytest.mark.parametrize("name", ["clip", "info_nce", "nt_xent"])
def test_logits_that_no_window_holds_take_the_exact_path(name: str, taken: list[str]) -> None:
    """Rows whose negatives lie 150 nats and more below another row's."""
    loss = next(x for x in LOSSES if x.name == name)
    a, b = (x.float() for x in random_pairs(loss.pairs(12), 8))
    with torch.no_grad():
        a[0], b[0] = 3 * a[1], 3 * a[1]
        a[2], b[2] = -3 * a[1], -3 * a[1]
    with exact_path_calls() as calls:
        got = run(loss, a, b, 30.0, normalize=False)
    assert taken
    assert calls
    assert_close(got, exact(loss, a, b, 30.0, normalize=False), value=1e-6, grad=1e-5)


@each_loss
@pytest.mark.parametrize("bad", [float("nan"), float("inf")])
def test_nan_and_infinity_come_out(loss: Loss, bad: float, taken: list[str]) -> None:
    a, b = (x.float() for x in random_pairs(6, 8))
    a[2, 3] = bad
    assert not loss(a, b, 5.0).isfinite()
    assert taken


@each_loss
def test_scale_zero_and_negative(loss: Loss, taken: list[str]) -> None:
    a, b = (x.float() for x in random_pairs(8, 8))
    for scale in [-3.0] if loss.name == "nt_xent" else [0.0, -3.0]:
        assert_close(run(loss, a, b, scale), exact(loss, a, b, scale), value=1e-6, grad=1e-5)
    assert taken


def test_upstream_gradients_and_a_second_backward(taken: list[str]) -> None:
    a, b = (x.float().requires_grad_() for x in random_pairs(9, 8))
    value = clipfast.clip_loss(a.t().contiguous().t(), b, 7.0)
    first = torch.autograd.grad(value, (a, b), torch.tensor(3.0), retain_graph=True)
    second = torch.autograd.grad(value, (a, b))
    for x, y, name in zip(first, second, "ab", strict=True):
        assert error(x, 3 * y) < 1e-6
        assert error(y, exact(CLIP, a, b, 7.0).grads[name]) < 1e-5
    assert taken


@each_loss
def test_a_second_derivative_is_an_error(loss: Loss, taken: list[str]) -> None:
    a, b = (x.float().requires_grad_() for x in random_pairs(9, 8))
    (first,) = torch.autograd.grad(loss(a, b, 7.0), a, create_graph=True)
    assert first.isfinite().all()
    with pytest.raises(RuntimeError, match="no second derivative"):
        first.square().sum().backward()
    assert taken


def test_widened_copies_are_exact_and_reused() -> None:
    x, y = (z.bfloat16() for z in random_pairs(7, 5))
    for rows, cols in ((x, y), (y[:3], x), (x.t(), y.t()[:2])):
        a, b = widening.widened(rows, cols)
        assert torch.equal(a, rows.float())
        assert torch.equal(b, cols.float())
    assert widening.widened(x, y)[0].data_ptr() == widening.widened(y, x)[0].data_ptr()
    assert widening.widened(x.float(), None)[1] is None
