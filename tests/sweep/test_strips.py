"""InfoNCE's mean strip by strip of rows: as exact as in two passes, with one product of the scores less."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
import torch
from helpers import (
    INFO_NCE,
    assert_close,
    converged_pairs,
    counted_products,
    each_normalize,
    each_sweep,
    error,
    exact,
    exact_path_calls,
    random_pairs,
    run,
    small_tiles,
)

M, N, D = 300, 700, 24
STRIPS = 360_000  # bytes: beside a tile of 64 there is room for the exponentials of 64 to 100 rows, not of 300


@pytest.fixture(autouse=True)
def tiles_of_64() -> Iterator[None]:
    with small_tiles(64):
        yield


def features(dtype: torch.dtype = torch.float32, **options) -> tuple[torch.Tensor, torch.Tensor]:
    a, b = random_pairs(N, D, m=M, **options)
    return a.to(dtype), b.to(dtype)


@each_sweep
@pytest.mark.parametrize(("workspace_bytes", "scores"), [(STRIPS, 1), (150_000, 2), (2**22, 1)], ids=["strips", "two", "all"])
def test_the_scores_are_multiplied_once(workspace_bytes: int, scores: int, backend: str) -> None:
    a, b = (x.requires_grad_() for x in features())
    with counted_products(backend) as counts:
        INFO_NCE(a, b, 10.0, backend=backend, workspace_bytes=workspace_bytes).backward()
    assert counts["add_rows"] == counts["add_cols"] == M * N * D
    least = (scores - 0.5) * M * N * D  # two passes keep some tiles too
    assert least < counts["scores"] <= scores * M * N * D


TARGETS = {
    "the diagonal": None,
    "shared keys": torch.arange(M) % 7,
    "some without a key": torch.where(torch.arange(M) % 3 == 0, -100, torch.arange(M) * 2),
    "a whole strip without keys": torch.where(torch.arange(M) < 128, -100, torch.arange(M)),
}


@each_sweep
@each_normalize
@pytest.mark.parametrize("targets", TARGETS.values(), ids=TARGETS.keys())
def test_float32(targets: torch.Tensor | None, normalize: bool, backend: str) -> None:
    a, b = features(unit=not normalize)
    options = {"normalize": normalize, "targets": targets}
    want = exact(INFO_NCE, a, b, 14.3, **options)
    assert_close(run(INFO_NCE, a, b, 14.3, backend=backend, workspace_bytes=STRIPS, **options), want, value=1e-6, grad=1e-5)


@pytest.mark.parametrize("dtype", [torch.float64, torch.bfloat16, torch.float16], ids=str)
def test_other_dtypes(dtype: torch.dtype) -> None:
    a, b = features(dtype)
    got = run(INFO_NCE, a, b, 14.3, normalize=True, workspace_bytes=2 * STRIPS if dtype == torch.float64 else STRIPS)
    limits = {torch.float64: 1e-12, torch.bfloat16: 3e-3, torch.float16: 4e-4}
    assert_close(got, exact(INFO_NCE, a, b, 14.3, normalize=True), value=1e-6, grad=limits[dtype])


@each_sweep
def test_converged(backend: str) -> None:
    a, b = (x.float() for x in converged_pairs(N, D, 0.05))
    want = exact(INFO_NCE, a[:M], b, 100.0)
    assert_close(run(INFO_NCE, a[:M], b, 100.0, backend=backend, workspace_bytes=STRIPS), want, value=1e-5, grad=1e-4)


@each_sweep
def test_a_strip_outside_the_window_sends_all_on_the_exact_path(backend: str) -> None:
    """Only a row of the third strip is far from every key."""
    a, b = features()
    a[200] = -b.sum(0)
    with exact_path_calls() as calls:
        got = run(INFO_NCE, a, b, 2000.0, normalize=True, backend=backend, workspace_bytes=STRIPS)
    assert len(calls) == 1
    assert_close(got, exact(INFO_NCE, a, b, 2000.0, normalize=True), value=1e-6, grad=1e-5)


@each_sweep
@pytest.mark.parametrize("wants", [("a",), ("b",), ("scale",), ("b", "scale")], ids="+".join)
def test_partial_gradients(wants: tuple[str, ...], backend: str) -> None:
    a, b = features()
    leaves = {"a": a, "b": b, "scale": torch.tensor(10.0)}
    for name in wants:
        leaves[name].requires_grad_()
    INFO_NCE(*leaves.values(), backend=backend, workspace_bytes=STRIPS).backward()
    want = exact(INFO_NCE, a, b, 10.0)
    assert all(error(leaves[name].grad, want.grads[name]) < 1e-5 for name in wants)
    assert all(x.grad is None for name, x in leaves.items() if name not in wants)


@each_sweep
def test_the_same_bits_again(backend: str) -> None:
    a, b = features()
    first, second = (run(INFO_NCE, a, b, 10.0, backend=backend, workspace_bytes=STRIPS) for _ in range(2))
    assert torch.equal(first.value, second.value)
    assert all(torch.equal(first.grads[name], second.grads[name]) for name in first.grads)
