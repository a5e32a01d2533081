"""What only a GPU can show: nothing waits for it, graphs capture it, memory stays bounded, offsets pass 2^31."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
import torch
import torch.nn.functional as F
from helpers import LOSSES, Loss, each_loss, error
from torch import Tensor

import clipfast
from clipfast.common.limits import limits

MIB = 2**20


@pytest.fixture(autouse=True)
def as_in_training() -> Iterator[None]:
    """Without the suite's poisoned memory, whose fills would count as memory and time of the loss."""
    torch.use_deterministic_algorithms(False)
    torch.cuda.empty_cache()
    torch.cuda.reset_peak_memory_stats()
    yield
    torch.cuda.set_sync_debug_mode("default")


def features(n: int, d: int, dtype: torch.dtype = torch.bfloat16) -> tuple[Tensor, Tensor]:
    generator = torch.Generator("cuda").manual_seed(0)
    a, b = (F.normalize(torch.randn(n, d, generator=generator, device="cuda"), dim=1).to(dtype) for _ in range(2))
    return a.requires_grad_(), b.requires_grad_()


def step(loss: Loss, a: Tensor, b: Tensor, knob: Tensor, bias: Tensor, **options) -> Tensor:
    value = loss(a, b, knob, bias if loss.has_bias else None, **options)
    value.backward()
    return value


@each_loss
@pytest.mark.parametrize("n", [100, 1000, 9000])
def test_nothing_waits_for_the_device(loss: Loss, n: int) -> None:
    a, b = features(n, 128)
    knob, bias = (torch.tensor(x, device="cuda", requires_grad=True) for x in (loss.knob(14.3), -10.0))
    step(loss, a, b, knob, bias, normalize=True)  # compiles the kernels, probes the products
    torch.cuda.set_sync_debug_mode("error")
    step(loss, a, b, knob, bias, normalize=True)


@each_loss
def test_a_graph_captures_forward_and_backward(loss: Loss) -> None:
    a, b = features(1000, 128)
    knob, bias = (torch.tensor(x, device="cuda", requires_grad=True) for x in (loss.knob(14.3), -10.0))
    inputs = [a, b, knob, bias] if loss.has_bias else [a, b, knob]

    def run() -> list[Tensor]:
        value = loss(a, b, knob, bias if loss.has_bias else None)
        return [value.detach(), *torch.autograd.grad(value, inputs)]

    side = torch.cuda.Stream()
    with torch.cuda.stream(side):
        for _ in range(3):
            run()
    torch.cuda.synchronize()
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        captured = run()
    with torch.no_grad():
        a.copy_(a.roll(1, 0))
    graph.replay()
    for got, want in zip(captured, run(), strict=True):
        assert torch.equal(got, want)


@pytest.mark.parametrize("loss", LOSSES, ids=lambda loss: loss.name)
def test_memory_is_the_gradients_and_one_tile(loss: Loss) -> None:
    n, d = loss.pairs(65_536), 768
    a, b = features(n, d)
    before = torch.cuda.memory_allocated()
    torch.cuda.reset_peak_memory_stats()
    step(loss, a, b, torch.tensor(loss.knob(14.3), device="cuda"), torch.tensor(-10.0, device="cuda"))
    extra = torch.cuda.max_memory_allocated() - before
    gradients = 2 * n * d * a.element_size()
    accumulators = 2 * n * d * 4  # float32, for one side or, computed in the forward pass, for both
    views = gradients if loss.name == "nt_xent" else 0
    tile = 2 * limits().macro_side ** 2
    assert extra <= gradients + accumulators + views + tile + 64 * MIB, f"{(extra - gradients) / MIB:.0f} MiB"


def test_memory_of_a_quarter_million_pairs() -> None:
    n, d = 262_144, 768
    a, b = features(n, d)
    before = torch.cuda.memory_allocated()
    torch.cuda.reset_peak_memory_stats()
    clipfast.clip_loss(a, b, 14.3).backward()
    extra = torch.cuda.max_memory_allocated() - before - 2 * n * d * a.element_size()
    assert extra <= 600 * 10**6, f"{extra / 1e6:.0f} MB"


def test_offsets_past_two_to_the_31() -> None:
    """N D = 2.3e9 elements: 32-bit offsets would wrap around. The last rows' loss against a small batch that holds them."""
    n, d = 4_500, 512_000
    if torch.cuda.get_device_properties(0).total_memory < 80 * 2**30:
        pytest.skip("needs 80 GiB of GPU memory")
    a = torch.zeros(n, d, device="cuda", dtype=torch.bfloat16)
    small = F.normalize(torch.randn(n, 64, device="cuda"), dim=1).bfloat16()
    a[:, -64:] = small
    got = clipfast.info_nce_loss(a, a, 14.3, reduction="none", backend="triton")
    want = clipfast.info_nce_loss(small.double(), small.double(), 14.3, reduction="none")
    assert error(got.cpu(), want.cpu()) < 1e-5


def test_one_compilation_serves_every_batch_size() -> None:
    from clipfast.kernels.exp_sums import exp_sums_kernel

    for n in (500, 501):
        step(LOSSES[0], *features(n, 128), torch.tensor(14.3, device="cuda"), torch.tensor(0.0), backend="triton")
    compiled = len(exp_sums_kernel.device_caches[torch.cuda.current_device()][0])
    for n in (502, 640, 1000, 4096):
        step(LOSSES[0], *features(n, 128), torch.tensor(14.3, device="cuda"), torch.tensor(0.0), backend="triton")
    assert len(exp_sums_kernel.device_caches[torch.cuda.current_device()][0]) == compiled
