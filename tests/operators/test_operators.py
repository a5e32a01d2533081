"""``torch.library.opcheck`` on every operator: schema, fake kernels, autograd registration, dynamic shapes."""

from __future__ import annotations

import pytest
import torch
from helpers import SWEEPS, random_pairs

from clipfast.losses.declaration import LOSSES
from clipfast.operators.record import Inputs, Options
from clipfast.operators.registration import ops
from clipfast.sweep.targets import other_view

BYTES = 64 * 2**10
TARGETS = torch.arange(20).roll(3).masked_fill(torch.arange(20) == 5, -100)
EVERY = (True, True, True, True)
CASES = {
    # name: (loss, rows, columns, targets, normalize, maxima, whether gradients are wanted); no columns: NT-Xent's triangle
    "clip": ("clip", 20, 20, None, False, False, True),
    "clip with statistics": ("clip", 20, 20, None, True, True, True),
    "clip with targets": ("clip", 20, 24, TARGETS, True, False, True),
    "info_nce": ("info_nce", 20, 30, None, False, False, True),
    "nt_xent": ("nt_xent", 20, None, other_view(20), True, False, True),
    "siglip": ("siglip", 20, 20, None, False, False, True),
    "siglip normalised": ("siglip", 20, 20, None, True, False, True),
    "evaluation": ("clip", 20, 20, None, False, False, False),
}
TRAINING = [name for name, case in CASES.items() if case[-1]]
each_dtype = pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
each_sweep = pytest.mark.parametrize("backend", SWEEPS)


def call(name: str, backend: str, dtype: torch.dtype, wants: tuple[bool, ...] = EVERY) -> tuple[str, Inputs, Options]:
    loss, m, n, targets, normalize, maxima, trains = CASES[name]
    wants = tuple(w and trains for w in wants)
    a, b = (x.to(dtype) for x in random_pairs(n or m, 8, m=m))
    bias = torch.tensor(-2.0) if loss == "siglip" else None
    inputs = Inputs(a, None if n is None else b, torch.tensor(5.0), bias, targets)
    wants = tuple(w and x is not None for w, x in zip(wants, inputs.differentiable, strict=True))
    for wanted, x in zip(wants, inputs.differentiable, strict=True):
        if wanted:
            x.requires_grad_()
    return loss, inputs, Options(normalize, maxima, list(wants), BYTES, backend, "", "auto")


@each_sweep
@each_dtype
@pytest.mark.parametrize("name", CASES)
@pytest.mark.parametrize("kind", ["mean", "losses"])
def test_forward(name: str, kind: str, dtype: torch.dtype, backend: str) -> None:
    loss, inputs, options = call(name, backend, dtype)
    torch.library.opcheck(getattr(ops, f"{loss}_{kind}").default, (*inputs, *options))


@each_sweep
@pytest.mark.parametrize("wants", [EVERY, (True, False, False, False), (False, True, False, False), (False, False, True, True)])
@pytest.mark.parametrize("name", TRAINING)
def test_gradients(name: str, wants: tuple[bool, ...], backend: str) -> None:
    loss, inputs, options = call(name, backend, torch.float32, wants)
    inputs = Inputs(*(None if x is None else x.detach() for x in inputs))
    saved = getattr(ops, f"{loss}_losses")(*inputs, *options)
    arguments = (torch.rand_like(saved[0]), *inputs, *saved, *options)
    torch.library.opcheck(getattr(ops, f"{loss}_gradients").default, arguments)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16], ids=str)
def test_scaled(dtype: torch.dtype) -> None:
    torch.library.opcheck(ops.scaled.default, (torch.rand(5, 3), torch.tensor(3.0), torch.rand(5, 3, dtype=dtype)))


def test_every_loss_has_its_operators() -> None:
    assert {case[0] for case in CASES.values()} >= set(LOSSES)
    for name in LOSSES:
        assert all(hasattr(ops, f"{name}_{kind}") for kind in ("mean", "losses", "gradients"))


@pytest.mark.parametrize(
    ("name", "changes", "message"),
    [
        ("clip", {"bias": torch.tensor(1.0)}, "bias must be None for a loss of softmaxes"),
        ("siglip", {"bias": None}, "cols and bias must be tensors"),
        ("siglip", {"cols": None}, "cols and bias must be tensors"),
        ("clip", {"wants": [True]}, "wants must be 4 bools"),
        ("clip", {"group": "0"}, "group must be '' for clip_mean"),
    ],
)
def test_calls_that_no_loss_makes(name: str, changes: dict, message: str) -> None:
    loss, inputs, options = call(name, "torch", torch.float32)
    inputs = inputs._replace(**{k: v for k, v in changes.items() if k in Inputs._fields})
    options = options._replace(**{k: v for k, v in changes.items() if k in Options._fields})
    with pytest.raises(ValueError, match=message):
        getattr(ops, f"{loss}_mean")(*inputs, *options)
