"""What CachedStep keeps while it runs, what a failing step leaves behind, and what it says of its memory."""

from __future__ import annotations

import weakref
from types import SimpleNamespace

import pytest
import torch
from cached_cases import Pair, gradients, norm_pair, pairs
from torch import Tensor, nn

from clipfast.training import CachedStep, PeakMemory

pytestmark = pytest.mark.usefixtures("one_thread")


def saved_peak(n: int, chunk: int) -> int:
    """The most bytes that autograd holds at once for the towers' backward passes, without parameters."""
    model = Pair(dropout=0.1, dtype=torch.float32)
    own = {p.untyped_storage().data_ptr() for p in model.parameters()}
    held, peak = 0, 0

    class Saved:
        def __init__(self, x: Tensor) -> None:
            self.tensor = x

    def release(size: int) -> None:
        nonlocal held
        held -= size

    def pack(x: Tensor) -> Saved | Tensor:
        nonlocal held, peak
        if x.untyped_storage().data_ptr() in own:
            return x
        saved = Saved(x.detach())
        held += x.nbytes
        peak = max(peak, held)
        weakref.finalize(saved, release, x.nbytes)
        return saved

    def unpack(saved: Saved | Tensor) -> Tensor:
        return saved.tensor if isinstance(saved, Saved) else saved

    def tower(part: nn.Module):
        def encode(x: Tensor) -> Tensor:
            with torch.autograd.graph.saved_tensors_hooks(pack, unpack):
                return part(x)

        return encode

    CachedStep([tower(model.image), tower(model.text)], model.loss, chunk)(*pairs(n, torch.float32))
    assert held == 0
    return peak


def test_activations_grow_with_the_chunk_and_not_with_the_batch():
    small = saved_peak(64, 8)
    assert small > 0
    assert saved_peak(256, 8) == small
    assert saved_peak(61, 8) == small
    assert saved_peak(256, 16) == 2 * small


@pytest.mark.parametrize("failing", range(1, 9))
def test_a_failing_tower_leaves_everything_as_it_was(model: Pair, failing: int):
    """The n-th call fails: the first five encode, the others encode again. The same step then succeeds."""
    first, second = norm_pair()
    calls = 0

    def tower(x: Tensor) -> Tensor:
        nonlocal calls
        calls += 1
        if calls == failing:
            raise MemoryError("no room")
        return first(x) + model.image(x)

    step = CachedStep([tower, model.text], model.loss, 2)
    second.requires_grad_(False)
    before, buffers = torch.get_rng_state(), [b.clone() for b in first.buffers()]
    with pytest.warns(UserWarning, match="batch norm"), pytest.raises(MemoryError, match="no room"):
        step(*pairs(10))
    assert torch.is_grad_enabled()
    assert torch.equal(torch.get_rng_state(), before)
    assert all(torch.equal(b, w) for b, w in zip(first.buffers(), buffers, strict=True))
    assert all(p.grad is None for part in (model, first) for p in part.parameters())
    step(*pairs(10))
    got = gradients(model)
    torch.set_rng_state(before)
    first.load_state_dict({**first.state_dict(), **dict(zip(dict(first.named_buffers()), buffers, strict=True))})
    model.zero_grad()
    step(*pairs(10))
    assert all(torch.equal(got[name], g) for name, g in gradients(model).items())


def test_peak_memory_is_split_on_cuda_and_absent_on_the_cpu(model: Pair, monkeypatch: pytest.MonkeyPatch):
    inputs = pairs(4)
    assert CachedStep([model.image, model.text], model.loss, 2, measure_memory=True)(*inputs).memory is None
    peaks = iter([1100, 1030, 1500])  # encoding, loss, encoding again
    fake = SimpleNamespace(
        is_initialized=lambda: True,
        device_count=lambda: 1,
        memory_allocated=lambda device: 1000,
        reset_peak_memory_stats=lambda device: None,
        max_memory_allocated=lambda device: next(peaks),
    )
    monkeypatch.setattr("clipfast.training.caching.peak_memory.torch", SimpleNamespace(cuda=fake))
    memory = CachedStep([model.image, model.text], model.loss, 2, measure_memory=True)(*inputs).memory
    assert memory == PeakMemory(towers=500, loss=30)
    assert str(PeakMemory(2**20, 2**19)) == "towers 1.0 MiB, loss 0.5 MiB"
