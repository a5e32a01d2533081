"""The losses on a GPU against the dense float64 definition: every regime of the numerics table, every GPU backend."""

from __future__ import annotations

import pytest
import torch
from helpers import (
    CLIP,
    HALF,
    LOSSES,
    SOFTMAX_LOSSES,
    Loss,
    Result,
    assert_close,
    converged_pairs,
    each_loss,
    each_normalize,
    error,
    exact,
    random_pairs,
)  # fmt: skip
from helpers import run as run_on_cpu

import clipfast
from clipfast.compute.backend_declaration import Query
from clipfast.compute.registry import declarations

BACKENDS = ["triton", "cuda"]
each_backend = pytest.mark.parametrize("backend", BACKENDS)
DTYPES = [torch.float32, *HALF]
SIZES = [(1, 3, 14.3), (2, 8, 1.0), (33, 17, 14.3), (130, 64, 100.0), (777, 72, 14.3), (2000, 512, 100.0), (1025, 768, 14.3)]


def needs(backend: str, dtype: torch.dtype, d: int) -> None:
    declaration = next(found for found in declarations() if found.name == backend)
    reason = declaration.why_not(Query("cuda", dtype, d * dtype.itemsize))
    if reason:
        pytest.skip(reason)


def run(loss: Loss, a: torch.Tensor, b: torch.Tensor, scale: float, bias: float | None = None, **options) -> Result:
    """As ``helpers.run``, with the features on the GPU."""
    with torch.device("cuda"):
        return on_cpu(run_on_cpu(loss, a.cuda(), b.cuda(), scale, bias, **options))


def on_cpu(result: Result) -> Result:
    return Result(result.value.cpu(), {name: g.cpu() for name, g in result.grads.items()})


def assert_within_rounding(got: Result, want: Result, dtype: torch.dtype, slack: float) -> None:
    for name in ("a", "b"):
        rounding = error(want.grads[name].to(dtype), want.grads[name])
        if rounding < 0.1:
            assert error(got.grads[name], want.grads[name]) <= 1.2 * rounding + slack, name
    assert error(got.value, want.value) < 1e-4


@each_loss
@each_normalize
@each_backend
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize(("n", "d", "scale"), SIZES)
def test_untrained(loss: Loss, normalize: bool, backend: str, dtype: torch.dtype, n: int, d: int, scale: float) -> None:
    needs(backend, dtype, d)
    a, b = (x.to(dtype) for x in random_pairs(loss.pairs(n), d, unit=not normalize))
    got, want = run(loss, a, b, scale, normalize=normalize, backend=backend), exact(loss, a, b, scale, normalize=normalize)
    if dtype == torch.float32:
        assert_close(got, want, value=1e-6, grad=1e-5)
    else:
        assert_within_rounding(got, want, dtype, 5e-3 if scale == 100 else 1e-3)


@each_loss
@each_backend
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize(("noise", "scale"), [(0.3, 14.3), (0.3, 25.0), (0.1, 25.0), (0.1, 100.0)])
def test_converged(loss: Loss, backend: str, dtype: torch.dtype, noise: float, scale: float) -> None:
    needs(backend, dtype, 256)
    a, b = (x.to(dtype) for x in converged_pairs(loss.pairs(1000), 256, noise))
    got, want = run(loss, a, b, scale, backend=backend), exact(loss, a, b, scale)
    if dtype == torch.float32:
        assert_close(got, want, value=1e-4, grad=1e-4)
    else:
        assert_within_rounding(got, want, dtype, 5e-3)


@each_backend
@pytest.mark.parametrize("loss", SOFTMAX_LOSSES, ids=lambda loss: loss.name)
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_the_range_guard(loss: Loss, backend: str, dtype: torch.dtype) -> None:
    """Sums that underflow to 0 under one shift (memeff gives log 0), and logits of hundreds (plain exponentials overflow)."""
    needs(backend, dtype, 8)
    a, b = (x.float() for x in random_pairs(loss.pairs(300), 8))
    a[0], b[0], a[2], b[2] = 3 * a[1], 3 * a[1], -3 * a[1], -3 * a[1]
    a, b = a.to(dtype), b.to(dtype)
    options = {"normalize": False} if loss.name == "nt_xent" else {}
    got, want = run(loss, a, b, 30.0, backend=backend, **options), exact(loss, a, b, 30.0, **options)
    if dtype == torch.float32:
        assert_close(got, want, value=1e-6, grad=1e-5)
    else:
        assert_within_rounding(got, want, dtype, 5e-3)


@each_backend
@pytest.mark.parametrize("n", [65, 127, 129, 130, 200, 257])
def test_sizes_past_a_block(backend: str, n: int) -> None:
    """Padded rows and columns must not leak exp(0 - shift) into the sums, nor masks be off in the backward pass."""
    needs(backend, torch.bfloat16, 64)
    a, b = (x.bfloat16() for x in random_pairs(n, 64))
    for scale in (1.0, 14.3):
        assert_within_rounding(run(CLIP, a, b, scale, backend=backend), exact(CLIP, a, b, scale), torch.bfloat16, 1e-3)


@each_backend
def test_gradients_are_those_of_the_definition(backend: str) -> None:
    """Not rescaled by the batch, the temperature or the world, and the scale has one."""
    needs(backend, torch.float16, 64)
    a, b = (x.half() for x in random_pairs(500, 64))
    got, want = run(CLIP, a, b, 14.3, backend=backend), exact(CLIP, a, b, 14.3)
    for name in ("a", "b", "scale"):
        slope = float((got.grads[name] * want.grads[name]).sum() / want.grads[name].square().sum())
        assert abs(slope - 1) < 2e-3, name


@each_loss
@each_backend
def test_rows_apart_and_rectangles(loss: Loss, backend: str) -> None:
    needs(backend, torch.bfloat16, 64)
    a, b = (x.bfloat16() for x in random_pairs(300, 64))
    wide = torch.cat([a, b], 1).cuda()
    knob = loss.knob(9.0)
    want = loss(a.double(), b.double(), knob, backend="reference")
    assert error(loss(wide[:, :64], wide[:, 64:], knob, backend=backend).cpu(), want) < 1e-5
    assert error(loss(wide[:, :64].t().contiguous().t(), wide[:, 64:], knob, backend=backend).cpu(), want) < 1e-5


@each_loss
@each_backend
def test_the_same_bits_on_a_second_run(loss: Loss, backend: str) -> None:
    needs(backend, torch.bfloat16, 128)
    a, b = (x.bfloat16() for x in random_pairs(loss.pairs(3000), 128))
    first, second = (run(loss, a, b, 20.0, backend=backend) for _ in range(2))
    assert torch.equal(first.value, second.value)
    assert all(torch.equal(first.grads[k], second.grads[k]) for k in first.grads)


@pytest.mark.parametrize("loss", LOSSES, ids=lambda loss: loss.name)
def test_nan_comes_out(loss: Loss) -> None:
    a, b = (x.bfloat16().cuda() for x in random_pairs(400, 64))
    a[200, 3] = float("nan")
    assert loss(a, b, loss.knob(9.0), backend="triton").isnan()


def test_float64_features_run_the_torch_backend() -> None:
    a, b = random_pairs(300, 24)
    assert_close(run(CLIP, a, b, 14.3), exact(CLIP, a, b, 14.3), value=1e-12, grad=1e-12)


def test_targets_on_the_device() -> None:
    a, b = (x.float() for x in random_pairs(400, 24, m=300))
    targets = torch.randperm(400, generator=torch.Generator().manual_seed(0))[:300]
    targets[[3, 8]] = -100
    want = exact(CLIP, a, b, 10.0, targets=targets)
    leaves = [x.cuda().requires_grad_() for x in (a, b)]
    loss = clipfast.clip_loss(*leaves, 10.0, targets=targets.cuda())
    loss.backward()
    assert error(loss.cpu(), want.value) < 1e-6
    for x, name in zip(leaves, "ab", strict=True):
        assert error(x.grad.cpu(), want.grads[name]) < 1e-5
