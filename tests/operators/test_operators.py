"""``torch.library.opcheck`` on every operator: schema, fake kernels, autograd registration, dynamic shapes."""

from __future__ import annotations

import pytest
import torch
from helpers import SWEEPS, random_pairs

from clipfast.operators.ops import ops

BYTES = 64 * 2**10
TARGETS = torch.arange(20).roll(3).masked_fill(torch.arange(20) == 5, -100)


def case(m: int = 20, n: int = 20, d: int = 8, dtype: torch.dtype = torch.float32, grad: bool = True):
    a, b = (x.to(dtype).requires_grad_(grad) for x in random_pairs(n, d, m=m))
    scale = torch.tensor(5.0, requires_grad=grad)
    bias = torch.tensor(-2.0, requires_grad=grad)
    return a, b, scale, bias


ALONE = ("", "auto")  # no process group

FORWARD = {
    # name: (rows, columns, targets, both, normalize, best, keep); no columns: NT-Xent's triangle
    "clip": (20, 20, None, True, False, False, True),
    "clip with statistics": (20, 20, None, True, True, True, True),
    "clip with targets": (20, 24, TARGETS, True, True, False, True),
    "info_nce": (20, 30, None, False, False, False, True),
    "nt_xent": (20, None, torch.arange(20).roll(10), False, True, False, True),
    "evaluation": (20, 20, None, True, False, False, False),
}


def softmax_arguments(name: str, backend: str, dtype: torch.dtype, grad: bool):
    m, n, targets, both, normalize, best, keep = FORWARD[name]
    a, b, scale, _ = case(m, n or m, dtype=dtype, grad=grad)
    wants = (keep, keep and n is not None, keep)
    return a, None if n is None else b, scale, targets, both, normalize, best, *wants, BYTES, backend


@pytest.mark.parametrize("backend", SWEEPS)
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
@pytest.mark.parametrize("name", FORWARD)
def test_softmax_nll(name: str, dtype: torch.dtype, backend: str) -> None:
    torch.library.opcheck(ops.softmax_nll.default, (*softmax_arguments(name, backend, dtype, FORWARD[name][-1]), *ALONE))


@pytest.mark.parametrize("backend", SWEEPS)
@pytest.mark.parametrize("wants", [(True, True, True), (True, False, False), (False, False, True)], ids=str)
@pytest.mark.parametrize("name", [k for k, v in FORWARD.items() if v[-1]])
def test_softmax_nll_grad(name: str, wants: tuple[bool, bool, bool], backend: str) -> None:
    rows, cols, scale, targets, both, normalize, *_, bytes_, backend = softmax_arguments(name, backend, torch.float32, False)
    wants = wants if cols is not None else (wants[0], False, wants[2])
    saved = ops.softmax_nll(*softmax_arguments(name, backend, torch.float32, False), *ALONE)
    upstream = torch.rand_like(saved[0])
    arguments = (upstream, rows, cols, scale, targets, both, normalize, *saved, *wants, bytes_, backend, *ALONE)
    torch.library.opcheck(ops.softmax_nll_grad.default, arguments)


@pytest.mark.parametrize("backend", SWEEPS)
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
@pytest.mark.parametrize("name", FORWARD)
def test_softmax_mean(name: str, dtype: torch.dtype, backend: str) -> None:
    torch.library.opcheck(ops.softmax_mean.default, softmax_arguments(name, backend, dtype, FORWARD[name][-1]))


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16], ids=str)
def test_scaled(dtype: torch.dtype) -> None:
    torch.library.opcheck(ops.scaled.default, (torch.rand(5, 3), torch.tensor(3.0), torch.rand(5, 3, dtype=dtype)))


@pytest.mark.parametrize("backend", SWEEPS)
@pytest.mark.parametrize("normalize", [False, True])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
def test_the_sigmoid_operators(dtype: torch.dtype, normalize: bool, backend: str) -> None:
    arguments = case(dtype=dtype)
    torch.library.opcheck(ops.sigmoid_nll.default, (*arguments, normalize, *[True] * 4, BYTES, backend, *ALONE))
    for wants in ((True, True, True, True), (False, True, False, False)):
        leaves = [x.detach().requires_grad_(w) for x, w in zip(arguments, wants, strict=True)]
        torch.library.opcheck(ops.sigmoid_mean.default, (*leaves, normalize, *wants, BYTES, backend, *ALONE))
        fixed = [x.detach() for x in arguments]
        end = (normalize, torch.empty(0, dtype=torch.int64), *wants, BYTES, backend, *ALONE)
        torch.library.opcheck(ops.sigmoid_nll_grad.default, (torch.rand(20), *fixed, *end))
