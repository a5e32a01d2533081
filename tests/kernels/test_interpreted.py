"""The Triton backend through the public losses, in the interpreter, against the dense float64 definition."""

from __future__ import annotations

import pytest
import torch
from helpers import (
    CLIP,
    HALF,
    INFO_NCE,
    LOSSES,
    SOFTMAX_LOSSES,
    Loss,
    assert_close,
    converged_pairs,
    each_loss,
    each_normalize,
    error,
    exact,
    random_pairs,
    run,
    small_tiles,
)  # fmt: skip

import clipfast
from clipfast.compute.triton_backend import interpreted
from clipfast.kernels import block_sizes, tile_launch
from clipfast.kernels.block_sizes import Block

pytestmark = [
    pytest.mark.skipif(not interpreted(), reason="a GPU is here: tests/gpu runs the compiled kernels"),
    pytest.mark.filterwarnings("ignore::RuntimeWarning"),  # numpy's, where a kernel divides by zero as IEEE says
]


@pytest.fixture(autouse=True)
def small_blocks(monkeypatch: pytest.MonkeyPatch) -> None:
    """Blocks of 32 x 16, so that small matrices have several of them, whole and ragged."""
    monkeypatch.setattr(block_sizes, "SAFE", Block(32, 16, 32, stages=1, warps=4, group=2))


SIZES = [(1, 3), (2, 1), (5, 17), (33, 8), (70, 40)]


@each_loss
@each_normalize
@pytest.mark.parametrize(("n", "d"), SIZES)
def test_float32(loss: Loss, n: int, d: int, normalize: bool) -> None:
    if d == 1 and normalize:
        pytest.skip("a normalised number has no gradient: there is nothing to be near to")
    a, b = (x.float() for x in random_pairs(loss.pairs(n), d, unit=not normalize))
    want = exact(loss, a, b, 14.3, normalize=normalize)
    with small_tiles(48):
        assert_close(run(loss, a, b, 14.3, normalize=normalize, backend="triton"), want, value=1e-6, grad=1e-5)


@each_loss
@each_normalize
@pytest.mark.parametrize("dtype", HALF, ids=str)
@pytest.mark.parametrize("reduction", ["mean", "none"])
def test_half_precision(loss: Loss, normalize: bool, dtype: torch.dtype, reduction: str) -> None:
    n = loss.pairs(50)
    a, b = (x.to(dtype) for x in random_pairs(n, 24, unit=not normalize))
    lines = 2 * n if loss.name == "nt_xent" else n
    options = {"normalize": normalize, "reduction": reduction, "upstream": None if reduction == "mean" else torch.ones(lines)}
    got = run(loss, a, b, 14.3, backend="triton", **options)
    want = exact(
        loss, a, b, 14.3, **(options | {"upstream": options["upstream"] if reduction == "mean" else torch.ones(lines).double()})
    )
    assert error(got.value, want.value) < 1e-6
    for name in ("a", "b"):
        rounding = error(want.grads[name].to(dtype), want.grads[name])
        assert error(got.grads[name], want.grads[name]) <= 1.2 * rounding + 1e-3


@each_loss
@pytest.mark.parametrize("dtype", [torch.float32, *HALF], ids=str)
@pytest.mark.parametrize(("noise", "scale"), [(0.3, 25.0), (0.1, 100.0)])
def test_converged(loss: Loss, dtype: torch.dtype, noise: float, scale: float) -> None:
    a, b = (x.to(dtype) for x in converged_pairs(loss.pairs(50), 32, noise))
    got, want = run(loss, a, b, scale, backend="triton"), exact(loss, a, b, scale)
    assert error(got.value, want.value) < 1e-4
    for name in ("a", "b"):
        rounding = error(want.grads[name].to(dtype), want.grads[name])
        if rounding < 0.1:
            limit = 1e-4 if dtype == torch.float32 else 1.2 * rounding + 5e-3
            assert error(got.grads[name], want.grads[name]) <= limit


@pytest.mark.parametrize("loss", SOFTMAX_LOSSES, ids=lambda loss: loss.name)
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
def test_the_range_guard_on_the_device(loss: Loss, dtype: torch.dtype) -> None:
    """Rows whose sums underflow under the batch's shift: the predicated kernels take over."""
    a, b = (x.float() for x in random_pairs(loss.pairs(24), 8))
    a[0], b[0], a[2], b[2] = 3 * a[1], 3 * a[1], -3 * a[1], -3 * a[1]
    a, b = a.to(dtype), b.to(dtype)
    options = {"normalize": False} if loss.name == "nt_xent" else {}
    got, want = run(loss, a, b, 30.0, backend="triton", **options), exact(loss, a, b, 30.0, **options)
    assert error(got.value, want.value) < 1e-6
    for name in ("a", "b"):
        assert error(got.grads[name], want.grads[name]) < (1e-5 if dtype == torch.float32 else 4e-3)


def test_targets_unpaired_rows_and_statistics() -> None:
    a, b = (x.float() for x in random_pairs(30, 12, m=21))
    targets = torch.randperm(30, generator=torch.Generator().manual_seed(0))[:21]
    targets[[3, 8]] = -100
    assert_close(run(CLIP, a, b, 10.0, targets=targets, backend="triton"), exact(CLIP, a, b, 10.0, targets=targets), 1e-6, 1e-5)
    got = clipfast.clip_loss(a, b, 10.0, targets=targets, return_stats=True, backend="triton")[1]
    want = clipfast.clip_loss(a.double(), b.double(), 10.0, targets=targets, return_stats=True, backend="reference")[1]
    for x, y in zip(got, want, strict=True):
        assert error(x, y) < 1e-6


@each_normalize
def test_several_rows_share_a_column(normalize: bool) -> None:
    a, b = (x.half() for x in random_pairs(9, 12, m=30, unit=not normalize))
    targets = torch.arange(30) % 7
    targets[5] = -100
    options = {"targets": targets, "normalize": normalize}
    got, want = run(INFO_NCE, a, b, 10.0, backend="triton", **options), exact(INFO_NCE, a, b, 10.0, **options)
    for name in ("a", "b"):
        assert error(got.grads[name], want.grads[name]) <= 1.2 * error(want.grads[name].half(), want.grads[name]) + 1e-3


@each_loss
def test_strided_features_and_nan(loss: Loss) -> None:
    a, b = (x.float() for x in random_pairs(20, 12))
    wide = torch.cat([a, b], 1)
    want = loss(a.double(), b.double(), loss.knob(9.0), backend="reference")
    assert error(loss(wide[:, :12], wide[:, 12:], loss.knob(9.0), backend="triton"), want) < 1e-6
    assert error(loss(a.t().contiguous().t(), b, loss.knob(9.0), backend="triton"), want) < 1e-6
    wide[4, 3] = float("nan")
    assert loss(wide[:, :12], wide[:, 12:], loss.knob(9.0), backend="triton").isnan()


@pytest.mark.parametrize("dtype", [torch.float32, *HALF], ids=str)
def test_zero_rows_normalised(dtype: torch.dtype) -> None:
    a, b = (x.to(dtype) for x in random_pairs(20, 12, unit=False))
    a[3], b[7] = 0, 0
    got, want = run(CLIP, a, b, 9.0, normalize=True, backend="triton"), exact(CLIP, a, b, 9.0, normalize=True)
    others = torch.arange(20) != 3
    assert error(got.value, want.value) < 1e-6
    assert error(got.grads["a"][others], want.grads["a"][others]) < (1e-5 if dtype == torch.float32 else 4e-3)
    if dtype != torch.float16:  # 1 / eps does not fit it
        assert error(got.grads["a"][3], want.grads["a"][3]) < (1e-5 if dtype == torch.float32 else 4e-3)


@each_loss
@pytest.mark.parametrize(("d", "loads"), [(24, "TMA"), (20, "pointers")])
def test_loads_by_descriptor_where_rows_are_aligned(
    loss: Loss, d: int, loads: str, monkeypatch: pytest.MonkeyPatch
) -> None:  # fmt: skip
    """As on Hopper: TMA for rows of 48 bytes, pointers for rows of 40."""
    monkeypatch.setattr(block_sizes, "capability", lambda device: (9, 0))
    monkeypatch.setitem(block_sizes.TABLE, 9, (Block(32, 16, 32, stages=1, warps=4, group=2),))
    described = []
    original = tile_launch.descriptor
    monkeypatch.setattr(tile_launch, "descriptor", lambda *args: described.append(args) or original(*args))
    a, b = (x.bfloat16() for x in random_pairs(loss.pairs(50), d))
    got, want = run(loss, a, b, 14.3, backend="triton"), exact(loss, a, b, 14.3)
    assert error(got.value, want.value) < 1e-6
    for name in ("a", "b"):
        assert error(got.grads[name], want.grads[name]) <= 1.2 * error(want.grads[name].bfloat16(), want.grads[name]) + 1e-3
    assert bool(described) == (loads == "TMA")


def test_the_same_bits_on_a_second_run() -> None:
    for loss in LOSSES:
        a, b = (x.bfloat16() for x in random_pairs(40, 12))
        first, second = (run(loss, a, b, 20.0, backend="triton") for _ in range(2))
        assert torch.equal(first.value, second.value)
        assert all(torch.equal(first.grads[k], second.grads[k]) for k in first.grads)
