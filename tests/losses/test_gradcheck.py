"""``torch.autograd.gradcheck`` in float64 for every argument of every loss, with tiles so small that many are swept."""

from __future__ import annotations

import pytest
import torch
from helpers import CLIP, INFO_NCE, Loss, each_loss, each_normalize, exact_path_calls, random_pairs, small_tiles
from torch import Tensor

SCALE, SIDE = 3.0, 8
BACKENDS = pytest.mark.parametrize("backend", ["torch", "reference"])


def workspace(d: int, kept: int = 100) -> int:
    """Room for a scratch tile of SIDE, a temporary, the products' results and ``kept`` float64 elements of pass 1."""
    return 8 * (2 * SIDE * SIDE + 2 * SIDE * d + kept)


def check(loss: Loss, a: Tensor, b: Tensor, *, fast: bool, eps: float = 1e-6, scale: float = SCALE, **options) -> bool:
    scalars = [torch.tensor(loss.knob(scale), dtype=torch.float64)]
    if loss.has_bias:
        scalars.append(torch.tensor(-1.5, dtype=torch.float64))
    leaves = [x.detach().clone().requires_grad_() for x in (a, b, *scalars)]

    def value(*leaves: Tensor) -> Tensor:
        return loss(*leaves, **options)

    with small_tiles(SIDE):
        return torch.autograd.gradcheck(value, leaves, fast_mode=fast, eps=eps, atol=1e-6)


@each_loss
@each_normalize
@BACKENDS
@pytest.mark.parametrize("d", [1, 3, 17])
@pytest.mark.parametrize("n", [1, 2, 5, 33])
def test_every_argument(loss: Loss, n: int, d: int, backend: str, normalize: bool) -> None:
    """33 rows make a 5 x 5 grid of ragged tiles, of which pass 2 finds only the first one kept."""
    options = {"normalize": normalize, "backend": backend, "workspace_bytes": workspace(d)}
    # The full Jacobian costs a call per feature: for many rows random directions through it are checked.
    assert check(loss, *random_pairs(n, d, unit=False), fast=n * d > 20, **options)


@each_loss
@each_normalize
@pytest.mark.parametrize("reduction", ["mean", "sum", "none"])
@pytest.mark.parametrize("kept", [0, 10**6], ids=["recomputed", "kept"])
def test_every_reduction(loss: Loss, reduction: str, normalize: bool, kept: int) -> None:
    options = {"normalize": normalize, "reduction": reduction, "backend": "torch", "workspace_bytes": workspace(3, kept)}
    assert check(loss, *random_pairs(19, 3, unit=False), fast=True, **options)
    assert check(loss, *random_pairs(3, 2, unit=False), fast=False, **options)


@each_normalize
@BACKENDS
@pytest.mark.parametrize(("queries", "keys"), [(1, 2), (2, 5), (5, 33), (20, 33)])
def test_more_keys_than_queries(queries: int, keys: int, backend: str, normalize: bool) -> None:
    a, b = random_pairs(keys, 3, m=queries, unit=False)
    assert check(INFO_NCE, a, b, fast=queries > 2, normalize=normalize, backend=backend, workspace_bytes=workspace(3))


@each_normalize
@BACKENDS
@pytest.mark.parametrize("reduction", ["mean", "none"])
def test_info_nce_with_shared_and_ignored_keys(reduction: str, backend: str, normalize: bool) -> None:
    a, b = random_pairs(9, 3, m=21, unit=False)
    targets = torch.arange(21) * 5 % 9
    targets[[3, 20]] = -100
    options = {"normalize": normalize, "reduction": reduction, "backend": backend, "workspace_bytes": workspace(3)}
    assert check(INFO_NCE, a, b, targets=targets, fast=True, **options)


@each_normalize
@BACKENDS
@pytest.mark.parametrize("reduction", ["mean", "sum", "none"])
def test_clip_with_four_images_and_three_texts(reduction: str, backend: str, normalize: bool) -> None:
    a, b = random_pairs(3, 2, m=4, unit=False)
    targets = torch.tensor([2, -100, -100, 0])
    options = {"normalize": normalize, "reduction": reduction, "backend": backend, "workspace_bytes": workspace(2)}
    assert check(CLIP, a, b, targets=targets, fast=False, **options)


@each_normalize
def test_clip_with_targets_over_many_tiles(normalize: bool) -> None:
    a, b = random_pairs(40, 3, m=30, unit=False)
    targets = torch.randperm(40, generator=torch.Generator().manual_seed(1))[:30]
    targets[::7] = -100
    assert check(CLIP, a, b, targets=targets, fast=True, normalize=normalize, backend="torch", workspace_bytes=workspace(3))


@pytest.mark.parametrize("reduction", ["mean", "none"])
@pytest.mark.parametrize("loss", [CLIP, INFO_NCE], ids=lambda loss: loss.name)
def test_the_exact_path(loss: Loss, reduction: str) -> None:
    """One image looks away from every text: its sums underflow float64's window beside logits of the others."""
    a, b = random_pairs(11, 4)
    a[0] = torch.tensor([-900.0, 0.3, 0.2, 0.1])
    b[:, 0] = 1 + 1e-3 * b[:, 0]
    with exact_path_calls() as calls:
        assert check(loss, a, b, fast=False, eps=1e-7, scale=1.0, reduction=reduction, backend="torch")
    assert calls
