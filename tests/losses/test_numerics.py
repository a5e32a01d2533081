"""Precision in every ordinary regime, against the dense definition in float64 of the same rounded features.

A tolerance here is a promise: when one fails, the cause is to be found, not the number changed.
"""

from __future__ import annotations

import functools

import pytest
import torch
import torch.nn.functional as F
from helpers import (
    HALF,
    LOSSES,
    NT_XENT,
    SIGLIP,
    SWEEPS,
    Loss,
    Result,
    assert_close,
    converged_pairs,
    each_loss,
    each_normalize,
    each_sweep,
    error,
    exact,
    random_pairs,
    run,
)
from torch import Tensor

# Untrained features in float32: loss within 1e-6, gradients within 1e-5 (relative, in norm).
UNTRAINED = [
    # rows, width, scale
    (3, 7, 1.0),
    (130, 48, 14.3),
    (1000, 64, 100.0),
    (1025, 96, 14.3),
    (2000, 32, 50.0),
    (2000, 64, 100.0),
]

# Converged features in float32: loss and gradients within 1e-4.
CONVERGED = [
    # loss, scale, bias, noise of the texts, the order of the loss
    ("clip", 14.3, None, 0.30, 1e-3),
    ("clip", 20.0, None, 0.10, 1e-6),
    ("clip", 25.0, None, 0.05, 1e-8),
    ("clip", 100.0, None, 2.60, 1e-3),
    ("info_nce", 14.3, None, 0.30, 1e-3),
    ("info_nce", 20.0, None, 0.10, 1e-6),
    ("info_nce", 25.0, None, 0.05, 1e-8),
    ("nt_xent", 14.3, None, 0.30, 1e-3),
    ("nt_xent", 20.0, None, 0.10, 1e-6),
    ("nt_xent", 25.0, None, 0.05, 1e-8),
    ("siglip", 30.0, -17.0, 0.10, 1e-3),
    ("siglip", 30.0, -22.0, 0.05, 1e-4),
    ("siglip", 50.0, -30.0, 0.05, 1e-8),
]
ROWS, WIDTH = 600, 256

# bf16 and fp16 features: beside 1.2 times what rounding the exact gradient to the dtype costs.
HALF_SLACK = {14.3: 1e-3, 100.0: 5e-3}
GRAD_SCALE = 2.0**13  # as torch.amp.GradScaler: otherwise the gradients of a converged loss underflow float16


@functools.cache
def _exact(loss: Loss, n: int, d: int, scale: float, normalize: bool) -> tuple[Tensor, Tensor, Result]:
    a, b = (x.float() for x in random_pairs(loss.pairs(n), d, unit=not normalize))
    return a, b, exact(loss, a, b, scale, normalize=normalize)


@each_loss
@pytest.mark.parametrize("regime", UNTRAINED, ids=lambda r: "N{}-D{}-scale{}".format(*r))
@each_normalize
@each_sweep
def test_float32_untrained(loss: Loss, regime: tuple[int, int, float], normalize: bool, backend: str) -> None:
    n, d, scale = regime
    a, b, want = _exact(loss, n, d, scale, normalize)
    assert_close(run(loss, a, b, scale, normalize=normalize, backend=backend), want, value=1e-6, grad=1e-5)


@pytest.mark.parametrize(("name", "scale", "bias", "noise", "size"), CONVERGED)
@each_normalize
@pytest.mark.parametrize("backend", [*SWEEPS, "reference"])
def test_float32_converged(
    name: str, scale: float, bias: float | None, noise: float, size: float, normalize: bool, backend: str
) -> None:
    loss = next(x for x in LOSSES if x.name == name)
    a, b = (x.float() for x in converged_pairs(loss.pairs(ROWS), WIDTH, noise))
    want = exact(loss, a, b, scale, bias, normalize=normalize)
    assert size / 10 < want.value < size * 10, f"the features are not in this regime: loss {want.value:.1e}"
    assert_close(run(loss, a, b, scale, bias, normalize=normalize, backend=backend), want, value=1e-4, grad=1e-4)


@pytest.mark.parametrize(("scale", "noise"), [(20.0, 0.10), (25.0, 0.05)])
def test_the_dense_float32_loss_fails_where_these_hold(scale: float, noise: float) -> None:
    """Otherwise the converged regimes above would test nothing: 1 - p and lse - z cancel in the textbook's expression."""
    a, b = (x.float().requires_grad_() for x in converged_pairs(ROWS, WIDTH, noise))
    want = exact(LOSSES[0], a, b, scale)
    logits, labels = scale * a @ b.t(), torch.arange(ROWS)
    value = (F.cross_entropy(logits, labels) + F.cross_entropy(logits.t(), labels)) / 2
    value.backward()
    assert error(value.detach(), want.value) > 1e-3
    assert error(a.grad, want.grads["a"]) > 1e-3


def assert_costs_one_rounding(got: Result, want: Result, dtype: torch.dtype, scale: float) -> None:
    for name in ("a", "b"):
        rounding = error(want.grads[name].to(dtype), want.grads[name])
        assert rounding < 0.1, "the exact gradient does not fit the dtype: the test would accept anything"
        distance = error(got.grads[name], want.grads[name])
        assert distance <= 1.2 * rounding + HALF_SLACK[scale], f"{name}: {distance:.1e}, rounding alone {rounding:.1e}"
    assert error(got.value, want.value) < 1e-4
    assert error(got.grads["scale"], want.grads["scale"]) < 1e-4


@each_loss
@pytest.mark.parametrize("dtype", HALF, ids=str)
@pytest.mark.parametrize("scale", [14.3, 100.0])
@pytest.mark.parametrize("noise", [None, 0.3, 1.8], ids=["untrained", "converged", "noisy"])
@each_normalize
@pytest.mark.parametrize("backend", [*SWEEPS, "reference"])
def test_half_precision_features(
    loss: Loss, dtype: torch.dtype, scale: float, noise: float | None, normalize: bool, backend: str
) -> None:
    pairs = loss.pairs(ROWS)
    a, b = random_pairs(pairs, WIDTH) if noise is None else converged_pairs(pairs, WIDTH, noise)
    a, b = a.to(dtype), b.to(dtype)
    if scale == 100.0 and noise == 0.3 and dtype == torch.float16 and loss != SIGLIP:
        pytest.skip("the exact gradient (1e-33) underflows float16 under any loss scale")
    bias = None if loss != SIGLIP else -10.0 if noise is None else -0.7 * scale
    options = {"normalize": normalize, "upstream": torch.tensor(GRAD_SCALE)}
    want = exact(loss, a, b, scale, bias, **options)
    if dtype == torch.float16 and error(want.grads["a"].half(), want.grads["a"]) > 0.1:
        pytest.skip("the exact gradient underflows float16 under this loss scale")
    got = run(loss, a, b, scale, bias, backend=backend, **options)
    assert_costs_one_rounding(got, want, dtype, scale)


@each_sweep
@pytest.mark.parametrize("dtype", HALF, ids=str)
def test_a_loss_scale_beyond_float16_leaves_the_gradients_whole(dtype: torch.dtype, backend: str) -> None:
    """GradScaler starts at 65,536, which is no float16 number; features' gradients are."""
    for loss in LOSSES:
        a, b = (x.to(dtype) for x in converged_pairs(loss.pairs(200), 64, 1.0))
        upstream = torch.tensor(65536.0)
        want = exact(loss, a, b, 14.3, upstream=upstream)
        got = run(loss, a, b, 14.3, backend=backend, upstream=upstream)
        assert_costs_one_rounding(got, want, dtype, 14.3)


@each_sweep
def test_a_temperature_of_float32_is_inverted_without_another_rounding(backend: str) -> None:
    a, b = (x.float() for x in converged_pairs(ROWS // 2, WIDTH, 0.3))
    want = exact(NT_XENT, a, b, 28.7)
    assert_close(run(NT_XENT, a, b, 28.7, backend=backend), want, value=1e-6, grad=1e-5)
