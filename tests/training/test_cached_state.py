"""What CachedStep leaves behind, what it refuses, how much it keeps, and what it says of memory and batch statistics."""

from __future__ import annotations

import warnings
import weakref
from types import SimpleNamespace

import pytest
import torch
from torch import Tensor, nn
from training_cases import Pair, fused, gradients, pairs

from clipfast.training import CachedStep, PeakMemory

pytestmark = pytest.mark.usefixtures("one_thread")


@pytest.fixture
def model() -> Pair:
    torch.manual_seed(0)
    return Pair()


def saved_peak(n: int, chunk: int) -> int:
    """The most bytes that autograd holds at once of what the towers saved, parameters left out."""
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


def norm_pair() -> tuple[nn.Module, nn.Module]:
    torch.manual_seed(0)
    first, second = (nn.Sequential(nn.Linear(5, 8), nn.BatchNorm1d(8), nn.Linear(8, 6)).double() for _ in range(2))
    return first, second


def test_batch_statistics_warn_once_and_count_each_chunk_once():
    first, second = norm_pair()
    images, texts = pairs(10)
    for part, x in ((first, images), (second, texts)):
        with torch.no_grad():
            for chunk in x.split(4):
                part(chunk)
    wanted = [b.clone() for part in (first, second) for b in part.buffers()]
    first, second = norm_pair()
    step = CachedStep([first, second], lambda a, b: fused(a, b, 5.0), 4)
    with pytest.warns(UserWarning, match="1: batch normalisation takes its statistics from each chunk"):
        step(images, texts)
    assert all(torch.equal(b, w) for b, w in zip([*first.buffers(), *second.buffers()], wanted, strict=True))
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        step(images, texts)


def test_no_warning_where_chunks_do_not_differ():
    first, second = norm_pair()
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        CachedStep([first, second], lambda a, b: fused(a, b, 5.0), 10)(*pairs(10))
        CachedStep([first.eval(), second.eval()], lambda a, b: fused(a, b, 5.0), 4)(*pairs(10))


def test_buffers_that_change_features_are_replayed(model: Pair):
    """Each chunk meets the buffer that it met the first time; modules of functions are found in their closures."""

    class Counted(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.register_buffer("count", torch.ones((), dtype=torch.float64))

        def forward(self, x: Tensor) -> Tensor:
            self.count = self.count + 1  # another tensor under the same name
            return model.image(x) * self.count

    counted = Counted()
    CachedStep([lambda x: 2 * counted(x), model.text], model.loss, 3, verify=True)(*pairs(10))
    assert counted.count == 5


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
    monkeypatch.setattr("clipfast.training.memory.torch", SimpleNamespace(cuda=fake))
    memory = CachedStep([model.image, model.text], model.loss, 2, measure_memory=True)(*inputs).memory
    assert memory == PeakMemory(towers=500, loss=30)
    assert str(PeakMemory(2**20, 2**19)) == "towers 1.0 MiB, loss 0.5 MiB"


def identity(x):
    return x


@pytest.mark.parametrize(
    ("arguments", "options", "error", "message"),
    [
        (([], fused, 2), {}, TypeError, "list of one or more modules or functions; got an empty list"),
        ((identity, fused, 2), {}, TypeError, "got function"),
        (([3], fused, 2), {}, TypeError, "tower 0 must be a module or a function of its input; got int"),
        (([identity], None, 2), {}, TypeError, "loss 'loss' must be a function .* got NoneType"),
        (([identity], {}, 2), {}, ValueError, "loss is an empty dict"),
        (([identity], fused, 0), {}, ValueError, "at least 1 row; got 0"),
        (([identity], fused, 2.0), {}, TypeError, "must be an integer.* got 2.0"),
        (([identity], fused, True), {}, TypeError, "must be an integer.* got True"),
        (([identity], fused, [2, 2]), {}, ValueError, "2 numbers for 1 towers"),
        (([identity], fused, 2), {"scaler": 1.0}, TypeError, "GradScaler or None; got float"),
        (([identity], fused, 2), {"modules": [1]}, TypeError, "modules that the towers use; got int"),
    ],
)
def test_wrong_arguments(arguments: tuple, options: dict, error: type[Exception], message: str):
    with pytest.raises(error, match=message):
        CachedStep(*arguments, **options)


ROWS = torch.ones(4, 3, requires_grad=True)


@pytest.mark.parametrize(
    ("inputs", "error", "message"),
    [
        ((), ValueError, "got 0 inputs for 1 towers"),
        ((ROWS, ROWS), ValueError, "got 2 inputs for 1 towers"),
        (({"x": ROWS, "y": ROWS[:3].detach()},), ValueError, r"input 0\['x'\] has 4 rows, input 0\['y'\] has 3 rows"),
        ((torch.ones(()),), ValueError, "no tensor with a batch dimension"),
        ((torch.ones(0, 3),), ValueError, "input 0 is empty"),
        (([ROWS, {1}],), TypeError, r"input 0\[1\] is a set; accepted: tensors"),
    ],
)
def test_wrong_inputs(inputs: tuple, error: type[Exception], message: str):
    with pytest.raises(error, match=message):
        CachedStep([lambda x: x], lambda x: x.sum(), 2)(*inputs)


@pytest.mark.parametrize(
    ("tower", "loss", "error", "message"),
    [
        (lambda x: x.sum(0), torch.sum, ValueError, r"output of tower 0 has shape \(3,\) for a chunk of 2 rows"),
        (lambda x: {x}, torch.sum, TypeError, "output of tower 0 is a set"),
        (identity, lambda x: 1.0, TypeError, "loss 'loss' must return a tensor with one number; got float"),
        (identity, lambda x: x, ValueError, r"must return one floating number; got torch.float32 \(4, 3\)"),
        (torch.detach, torch.sum, ValueError, "no loss depends on anything that requires a gradient"),
    ],
)
def test_wrong_results(tower, loss, error: type[Exception], message: str):
    with pytest.raises(error, match=message):
        CachedStep([tower], loss, 2)(ROWS)


def test_without_gradients_it_has_nothing_to_do():
    for mode in (torch.no_grad, torch.inference_mode):
        with mode(), pytest.raises(RuntimeError, match="call it outside"):
            CachedStep([identity], torch.sum, 2)(ROWS)
