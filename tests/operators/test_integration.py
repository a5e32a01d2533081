"""The losses as good citizens of PyTorch: operators, compilation, autocast, autograd, determinism."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
import torch
from helpers import (
    CLIP,
    LOSSES,
    NEEDS_EXTENSION,
    SWEEPS,
    Loss,
    assert_close,
    each_loss,
    each_normalize,
    each_sweep,
    error,
    exact,
    random_pairs,
    run,
    small_tiles,
)
from torch import Tensor

from clipfast.compute import native

EVERY = pytest.mark.parametrize("backend", [*SWEEPS, "reference"])


@pytest.fixture
def fresh_compiler() -> Iterator[None]:
    torch._dynamo.reset()
    yield
    torch._dynamo.reset()


def pairs(n: int, d: int = 16, dtype: torch.dtype = torch.float32) -> tuple[Tensor, Tensor]:
    a, b = random_pairs(n, d)
    return a.to(dtype).requires_grad_(), b.to(dtype).requires_grad_()


@each_loss
@each_sweep
@pytest.mark.parametrize("reduction", ["mean", "none"])
@pytest.mark.filterwarnings("ignore::UserWarning")
def test_compiled_equals_eager(loss: Loss, backend: str, reduction: str, fresh_compiler: None) -> None:
    """One graph without a break. ``aot_eager`` traces as inductor does and leaves out the C++ compiler."""

    def step(a: Tensor, b: Tensor, scale: Tensor) -> Tensor:
        return loss(2 * a, b, scale, reduction=reduction, backend=backend).sum()

    compiled = torch.compile(step, fullgraph=True, backend="aot_eager")
    results = []
    for function in (step, compiled):
        a, b = pairs(140)
        scale = torch.tensor(loss.knob(10.0), requires_grad=True)
        value = function(a, b, scale)
        value.backward()
        results.append((value.detach(), a.grad, b.grad, scale.grad))
    assert all(torch.equal(x, y) for x, y in zip(*results, strict=True))


@pytest.mark.filterwarnings("ignore::UserWarning")
def test_inductor_compiles_the_loss_by_default(fresh_compiler: None) -> None:
    compiled = torch.compile(CLIP, fullgraph=True)
    want, got = (pairs(140) for _ in range(2))
    CLIP(*want, 10.0).backward()
    compiled(*got, 10.0).backward()
    assert all(error(x.grad, y.grad) < 1e-6 for x, y in zip(got, want, strict=True))


@each_loss
@pytest.mark.parametrize("dynamic", [True, None], ids=["dynamic", "default"])
@pytest.mark.filterwarnings("ignore::UserWarning")
def test_no_recompilation_when_only_the_batch_changes(loss: Loss, dynamic: bool | None, fresh_compiler: None) -> None:
    compiled = torch.compile(loss, fullgraph=True, dynamic=dynamic, backend="aot_eager")
    sizes = [150, 170, 40, 1025]
    if dynamic is None:  # by default the second size makes the one recompilation, from a fixed number to any
        for n in sizes[:2]:
            compiled(*pairs(n), loss.knob(10.0)).backward()
    with torch._dynamo.config.patch(error_on_recompile=True):
        for n in sizes[2:] if dynamic is None else sizes:
            a, b = pairs(n)
            value = compiled(a, b, loss.knob(10.0))
            value.backward()
            assert error(value.detach(), loss(a, b, loss.knob(10.0)).detach()) < 1e-6
            assert a.grad.isfinite().all()


@each_loss
@each_sweep
@each_normalize
def test_autocast_sums_in_float32(loss: Loss, backend: str, normalize: bool) -> None:
    """Inside autocast the bits of outside, for the bf16 features that a model gives there."""
    a, b = pairs(140, dtype=torch.bfloat16)
    outside = run(loss, a, b, 10.0, backend=backend, normalize=normalize)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        inside = run(loss, a, b, 10.0, backend=backend, normalize=normalize)
    assert torch.equal(inside.value, outside.value)
    assert all(torch.equal(inside.grads[k], outside.grads[k]) for k in outside.grads)
    assert loss(a, b, 0.5, backend=backend).dtype == torch.float32


@each_loss
@each_sweep
@pytest.mark.parametrize("reduction", ["mean", "sum"])
def test_double_backward_is_a_clear_error(loss: Loss, backend: str, reduction: str) -> None:
    a, b = pairs(140)
    (grad,) = torch.autograd.grad(loss(a, b, 1.0, reduction=reduction, backend=backend), a, create_graph=True)
    with pytest.raises(RuntimeError, match=r"no second derivative .* use backend='reference'"):
        grad.square().sum().backward()


@each_loss
def test_the_reference_has_second_derivatives(loss: Loss) -> None:
    a, b = random_pairs(4, 3)
    leaves = [x.requires_grad_() for x in (a, b)]
    assert torch.autograd.gradgradcheck(lambda *x: loss(*x, 1.5, backend="reference"), leaves)


@each_loss
@EVERY
def test_a_second_backward_through_a_kept_graph(loss: Loss, backend: str) -> None:
    a, b = pairs(140)
    value = loss(a, b, loss.knob(10.0), backend=backend)
    first = torch.autograd.grad(value, (a, b), retain_graph=True)
    second = torch.autograd.grad(value, (a, b))
    assert all(torch.equal(x, y) for x, y in zip(first, second, strict=True))
    with pytest.raises(RuntimeError, match="backward through the graph a second time"):
        torch.autograd.grad(value, (a, b))


@each_loss
@each_sweep
@each_normalize
def test_the_same_bits_on_a_second_run(loss: Loss, backend: str, normalize: bool) -> None:
    a, b = (x.float() for x in random_pairs(333, 40))
    with small_tiles(64):
        first, second = (run(loss, a, b, 20.0, normalize=normalize, backend=backend) for _ in range(2))
    assert torch.equal(first.value, second.value)
    assert all(torch.equal(first.grads[k], second.grads[k]) for k in first.grads)


@each_loss
@NEEDS_EXTENSION
def test_the_same_bits_on_one_thread_and_on_two(loss: Loss) -> None:
    """The C++ loops split rows at fixed places; what the library's products do is theirs, and here they agree closely."""
    a, b = (x.float() for x in random_pairs(700, 40))
    threads, results = torch.get_num_threads(), []
    try:
        for count in (1, 2):
            torch.set_num_threads(count)
            results.append(run(loss, a, b, 20.0, backend="cpu"))
    finally:
        torch.set_num_threads(threads)
    assert_close(results[0], results[1], value=1e-7, grad=1e-6)


@each_loss
@each_normalize
@NEEDS_EXTENSION
@pytest.mark.parametrize("name", native.INSTRUCTION_SETS)
def test_every_instruction_set_is_right(loss: Loss, normalize: bool, name: str) -> None:
    a, b = (x.float() for x in random_pairs(loss.pairs(301), 37))
    before = native.instruction_set()
    try:
        if native.instruction_set(name) != name:
            pytest.skip(f"this processor has no {name}")
        got = run(loss, a, b, 30.0, normalize=normalize, backend="cpu")
        if loss == CLIP:
            stats = loss(a, b, 30.0, return_stats=True, normalize=normalize, backend="cpu")[1]
            want = loss(a, b, 30.0, return_stats=True, normalize=normalize, backend="torch")[1]
            assert all(error(x, y) < 1e-6 for x, y in zip(stats, want, strict=True))
    finally:
        native.instruction_set(before)
    assert_close(got, exact(loss, a, b, 30.0, normalize=normalize), value=1e-6, grad=1e-5)


def test_uninitialised_memory_is_poisoned() -> None:
    assert torch.empty(1000).isnan().all()
    assert torch.ones(3).new_empty(1000, dtype=torch.float64).isnan().all()
    assert torch.empty_like(torch.ones(1000)).isnan().all()
    assert (torch.empty(1000, dtype=torch.int64) == torch.iinfo(torch.int64).max).all()


def test_losses_are_float32_or_wider() -> None:
    for loss in LOSSES:
        for dtype in (torch.float32, torch.float64, torch.bfloat16, torch.float16):
            value = loss(*pairs(140, dtype=dtype), 1.0)
            assert value.dtype == (torch.float64 if dtype == torch.float64 else torch.float32)
