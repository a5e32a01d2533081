"""What the tests of the losses share: features of every regime, one way to call each loss, and the yardstick for errors."""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

import clipfast
from clipfast.common.limits import using
from clipfast.compute.registry import backend as backend_named
from clipfast.sweep import exact as exact_path

HALF = (torch.bfloat16, torch.float16)
NEEDS_EXTENSION = pytest.mark.skipif(
    clipfast.backends()["cpu"] is not None, reason=f"no cpu backend: {clipfast.backends()['cpu']}"
)
SWEEPS = [pytest.param("cpu", marks=NEEDS_EXTENSION), "torch"]
"""The backends that sweep tiles in float32; float64 features need "torch"."""


BIAS = -10.0  # SigLIP's initial bias


@dataclass(frozen=True)
class Loss:
    """A public loss under one signature."""

    name: str
    has_bias: bool = False

    def __call__(self, a: Tensor, b: Tensor, knob: Tensor | float, bias: Tensor | float | None = None, **options) -> Tensor:
        function = getattr(clipfast, f"{self.name}_loss")
        if self.has_bias and bias is None:
            bias = BIAS
        return function(a, b, knob, **options) if bias is None else function(a, b, knob, bias, **options)

    def knob(self, scale: float) -> float:
        """``scale`` as the loss takes it: NT-Xent's is a temperature."""
        return 1 / scale if self.name == "nt_xent" else scale

    def pairs(self, rows: int) -> int:
        """How many pairs give ``rows`` rows of logits: NT-Xent's are the views of both sides."""
        return max(1, rows // 2) if self.name == "nt_xent" else rows


CLIP, INFO_NCE, NT_XENT, SIGLIP = Loss("clip"), Loss("info_nce"), Loss("nt_xent"), Loss("siglip", has_bias=True)
LOSSES = [CLIP, INFO_NCE, NT_XENT, SIGLIP]
SOFTMAX_LOSSES = [CLIP, INFO_NCE, NT_XENT]
each_loss = pytest.mark.parametrize("loss", LOSSES, ids=lambda loss: loss.name)
each_softmax_loss = pytest.mark.parametrize("loss", SOFTMAX_LOSSES, ids=lambda loss: loss.name)
each_sweep = pytest.mark.parametrize("backend", SWEEPS)
each_normalize = pytest.mark.parametrize("normalize", [False, True], ids=["as_given", "normalize"])


def random_pairs(n: int, d: int, *, m: int | None = None, unit: bool = True, seed: int = 0) -> tuple[Tensor, Tensor]:
    """Untrained features (float64): unit rows, or with ``unit=False`` rows whose norms spread over a factor of 100."""
    generator = torch.Generator().manual_seed(seed)
    sides = []
    for rows in (n if m is None else m, n):
        x = F.normalize(torch.randn(rows, d, generator=generator, dtype=torch.float64), dim=1)
        sides.append(x if unit else x * 10 ** (2 * torch.rand(rows, 1, generator=generator, dtype=torch.float64) - 1))
    return sides[0], sides[1]


def converged_pairs(n: int, d: int, noise: float, *, seed: int = 0) -> tuple[Tensor, Tensor]:
    """Unit rows where each text is its image and a little noise, as at the end of a training run (float64)."""
    generator = torch.Generator().manual_seed(seed)
    a = F.normalize(torch.randn(n, d, generator=generator, dtype=torch.float64), dim=1)
    b = F.normalize(a + noise * F.normalize(torch.randn(n, d, generator=generator, dtype=torch.float64), dim=1), dim=1)
    return a, b


@dataclass
class Result:
    """A loss's value and its gradients by name, all float64."""

    value: Tensor
    grads: dict[str, Tensor]


def run(
    loss: Loss, a: Tensor, b: Tensor, scale: float, bias: float | None = None, *,
    dtype: torch.dtype | None = None, upstream: Tensor | None = None, **options,
) -> Result:  # fmt: skip
    """Value and every gradient of ``loss``; scale and bias are float32 numbers, held in float64 beside float64 features."""
    dtype = dtype or a.dtype
    leaves = {"a": a, "b": b, "scale": torch.tensor(loss.knob(scale))}
    if loss.has_bias:
        leaves["bias"] = torch.tensor(BIAS if bias is None else bias)
    wide = torch.float64 if dtype == torch.float64 else torch.float32
    leaves = {k: x.detach().to(wide if x.dim() == 0 else dtype, copy=True).requires_grad_() for k, x in leaves.items()}
    value = loss(leaves["a"], leaves["b"], leaves["scale"], leaves.get("bias"), **options)
    value.backward(upstream)
    return Result(value.detach().double(), {name: x.grad.double() for name, x in leaves.items()})


def exact(loss: Loss, a: Tensor, b: Tensor, scale: float, bias: float | None = None, **options) -> Result:
    """The dense definition in float64, of the very numbers that a narrower run is given."""
    return run(loss, a, b, scale, bias, dtype=torch.float64, backend="reference", **options)


def error(got: Tensor, want: Tensor) -> float:
    """The relative error in norm; absolute where the right answer is 0. NaN and infinity give infinity."""
    difference = float((got.double() - want.double()).norm())
    size = float(want.double().norm())
    relative = difference / size if size else difference
    return relative if relative < float("inf") else float("inf")


def assert_close(got: Result, want: Result, value: float, grad: float) -> None:
    errors = {"value": error(got.value, want.value), **{k: error(g, want.grads[k]) for k, g in got.grads.items()}}
    wrong = {k: e for k, e in errors.items() if not e <= (value if k == "value" else grad)}
    assert not wrong, f"relative errors {wrong}; all: {errors}"


@contextmanager
def small_tiles(side: int = 8) -> Iterator[None]:
    """Tiles of ``side`` instead of 1024, so that 33 rows make five ragged strips."""
    with using(tile_side=side, smallest_side=side):
        yield


@contextmanager
def exact_path_calls() -> Iterator[list[str]]:
    """Records each time pass 1 falls back on the exact path."""
    calls: list[str] = []
    original = exact_path.forward

    @functools.wraps(original)
    def recording(*args, **kwargs):
        calls.append("exact")
        return original(*args, **kwargs)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(exact_path, "forward", recording)
        yield calls


@contextmanager
def counted_products(backend: str) -> Iterator[dict[str, int]]:
    """Multiply-adds of each of a tile's three products while the context is open."""
    gemm = backend_named(backend).products
    counts = {"scores": 0, "add_rows": 0, "add_cols": 0}

    def counting(name: str, function: Callable) -> Callable:
        def product(x: Tensor, y: Tensor, z: Tensor):
            rows, inner, cols = {
                "scores": (x.shape[0], x.shape[1], y.shape[0]),
                "add_rows": (x.shape[0], y.shape[1], x.shape[1]),
                "add_cols": (x.shape[0], y.shape[0], x.shape[1]),
            }[name]
            counts[name] += rows * inner * cols
            return function(x, y, z)

        return product

    with pytest.MonkeyPatch.context() as patch:
        for name in counts:
            patch.setattr(gemm, name, counting(name, getattr(gemm, name)), raising=True)
        yield counts
