"""What surrounds a loss in training: torch.compile, autocast, loss scaling, wrappers, ranks that fail, memory, traffic."""

from __future__ import annotations

import ctypes
import os
import sys
import time
from datetime import timedelta
from pathlib import Path

import pytest
import torch
import torch.distributed as dist
from distributed_cases import LOSSES, STRATEGIES, Batch, Call
from helpers import CLIP, NT_XENT, SIGLIP, error
from processes import run_processes
from torch import Tensor, nn
from torch.distributed.fsdp import fully_shard

import clipfast
from clipfast.compute.torch_backend import TorchTiles
from clipfast.distributed.traffic import counted

pytestmark = pytest.mark.skipif(not dist.is_available() or not dist.is_gloo_available(), reason="needs gloo")
MIB = 2**20


def test_two_processes(tmp_path: Path) -> None:
    run_processes(two_processes, tmp_path, 2)


def two_processes(rank: int) -> None:
    group = dist.group.WORLD
    compiled(rank, group)
    autocast_and_scaling(rank, group)
    sharded(rank, group)
    second_derivative(rank, group)
    calls_that_differ(rank, group)
    a_rank_that_does_not_come(rank)
    a_rank_that_fails_in_the_middle(rank)


def compiled(rank: int, group: dist.ProcessGroup) -> None:
    """One graph without breaks, in which each loss is an operator; other batch sizes need no second compilation."""
    for loss in LOSSES:
        call = Call(loss, dtype=torch.float32)
        torch._dynamo.reset()
        torch._dynamo.utils.counters.clear()
        step = torch.compile(
            lambda a, b, loss=loss: loss(a, b, loss.knob(10.0), group=group), backend="aot_eager", dynamic=True, fullgraph=True
        )
        for rows in ((30, 40), (25, 35), (60, 20)):
            batch = Batch.of(rows)
            a, b = (x.float().requires_grad_() for x in batch.part(rank))
            value = step(a, b)
            value.backward()
            want = call.everywhere(batch, rank, group)
            assert torch.equal(value.detach().double(), want.value)
            assert torch.equal(a.grad.double(), want.grads["a"])
        assert torch._dynamo.utils.counters["stats"]["unique_graphs"] == 1


def autocast_and_scaling(rank: int, group: dist.ProcessGroup) -> None:
    """Autocast promotes the narrower tower and leaves the exchange alone; a loss scale multiplies the gradients."""
    batch = Batch.of((9, 14))
    for loss in LOSSES:
        a, b = (x.float().requires_grad_() for x in batch.part(rank))
        with torch.autocast("cpu", dtype=torch.bfloat16):
            value = loss(a, b, loss.knob(10.0), group=group)
        (value * 1024).backward()
        want = Call(loss).expected(Batch(batch.a.float().double(), batch.b.float().double(), batch.rows, batch.cols), rank)
        assert error(value.detach(), want.value) < 1e-6
        assert error(a.grad / 1024 / 2, want.grads["a"]) < 3e-6


def sharded(rank: int, group: dist.ProcessGroup) -> None:
    """FSDP2 averages gradients too: its parameters' are one process's."""
    inputs = torch.randn(24, 8, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    own = inputs[:10] if rank == 0 else inputs[10:]

    def gradients(x: Tensor, shard: bool) -> list[Tensor]:
        torch.manual_seed(1)
        tower = nn.Linear(8, 6, dtype=torch.float64)
        if shard:
            fully_shard(tower)
        y = tower(x)
        clipfast.clip_loss(y, y.roll(1, 1), 5.0, normalize=True, group=group if shard else None).backward()
        return [p.grad.full_tensor() if shard else p.grad for p in tower.parameters()]

    for got, want in zip(gradients(own, True), gradients(inputs, False), strict=True):
        assert error(got, want) < 1e-12


def second_derivative(rank: int, group: dist.ProcessGroup) -> None:
    a, b = (x.requires_grad_() for x in Batch.of((4, 6)).part(rank))
    (grad,) = torch.autograd.grad(clipfast.clip_loss(a, b, 10.0, group=group), a, create_graph=True)
    with pytest.raises(RuntimeError, match="no second derivative"):
        grad.sum().backward()


def calls_that_differ(rank: int, group: dist.ProcessGroup) -> None:
    """Every rank gets the error, at once."""
    a, b = Batch.of((4, 6)).part(rank)
    narrower = (a[:, :10], b[:, :10]) if rank else (a, b)
    single = (a.float(), b.float()) if rank else (a, b)
    locked = (a.clone().requires_grad_(rank == 0), b)
    for sides, scale, options, name in (
        (narrower, 10.0, {}, "width: 24, 10"),
        (single, 10.0, {}, "dtype"),
        ((a, b), 10.0 + rank, {}, "scale: 10, 11"),
        ((a, b), 10.0, {"normalize": rank == 0}, "normalize: 1, 0"),
        ((a, b), 10.0, {"strategy": STRATEGIES[rank]}, "strategy"),
        (locked, 10.0, {}, "gradients wanted"),
    ):
        with pytest.raises(ValueError, match=f"the ranks' calls of a clipfast loss differ in {name}"):
            clipfast.clip_loss(*sides, scale, group=group, **options)
    other = clipfast.info_nce_loss if rank else clipfast.clip_loss
    for loss, reduction, name in (
        (other, "mean", "the loss or its reduction"),
        (SIGLIP if rank else CLIP, "mean", "the loss or its reduction"),
        (NT_XENT if rank else CLIP, "mean", "the loss or its reduction"),
        (SIGLIP, "mean" if rank else "sum", "the loss or its reduction"),
    ):
        with pytest.raises(ValueError, match=f"the ranks' calls of a clipfast loss differ in {name}"):
            loss(a, b, 10.0, group=group, reduction=reduction)
    with pytest.raises(ValueError, match="backend must be a sweep's, or None, with a group; got 'reference'"):
        clipfast.clip_loss(a, b, 10.0, group=group, backend="reference")


def a_rank_that_does_not_come(rank: int) -> None:
    group = dist.new_group(timeout=timedelta(seconds=1))
    if rank == 1:
        time.sleep(2)
        return
    with pytest.raises(RuntimeError, match="clipfast's loss on rank 0 of 2 could not finish its comparison of batches"):
        clipfast.clip_loss(*Batch.of((4, 6)).part(rank), 10.0, group=group)


def a_rank_that_fails_in_the_middle(rank: int) -> None:
    """Its own error is its own; the others' names the step that it left them in."""
    for strategy, step in zip(STRATEGIES, ("ring exchange", "reduce-scatter"), strict=True):
        group = dist.new_group(timeout=timedelta(seconds=1))
        a, b = (x.requires_grad_() for x in Batch.of((4, 6)).part(rank))
        value = clipfast.clip_loss(a, b, 10.0, group=group, strategy=strategy)
        with pytest.MonkeyPatch.context() as patch:
            if rank == 1:
                patch.setattr(TorchTiles, "weights", _fails)
            message = "out of memory" if rank else f"on rank 0 of 2 could not finish its {step}: another rank failed, left"
            with pytest.raises(RuntimeError, match=message):
                value.backward()
        dist.barrier()


def _fails(*_) -> None:
    raise RuntimeError("out of memory")


def test_a_rank_that_dies_ends_the_others(tmp_path: Path) -> None:
    run_processes(dies, tmp_path, 3)


def dies(rank: int) -> None:
    a, b = (x.requires_grad_() for x in Batch.of((4, 6, 5)).part(rank))
    value = clipfast.clip_loss(a, b, 10.0, group=dist.group.WORLD, strategy="ring")
    if rank == 1:
        os._exit(0)
    began = time.monotonic()
    with pytest.raises(RuntimeError, match="another rank failed, left"):
        value.backward()
    assert time.monotonic() - began < 10  # by the closed connection, not by the timeout of 20 seconds
    os._exit(0)  # the group is broken: no barrier


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="reads /proc")
def test_memory_of_each_rank(tmp_path: Path) -> None:
    run_processes(memory, tmp_path, 3, seconds=120)


def memory(rank: int) -> None:
    """Beside the gradients, ring: two blocks of features and two of accumulators; gather: all ranks' of both."""
    rows, width, workspace = 1536, 1024, 8 * MIB
    block, gradients, ranks = rows * width * 4, 2 * rows * width * 4, dist.get_world_size()
    vectors = 40 * 8 * rows
    ctypes.CDLL(None).mallopt(-3, MIB)  # M_MMAP_THRESHOLD: what is freed leaves the process, so that peaks are the tensors'
    limits = {"ring": gradients + 4 * block, "gather": gradients + 2 * ranks * block}
    for strategy, limit in limits.items():
        for loss in (CLIP, SIGLIP, NT_XENT):
            step(rank, loss, 256, width, strategy, workspace)  # libraries and their buffers
            used = step(rank, loss, loss.pairs(rows), width, strategy, workspace)
            assert used <= limit + workspace + vectors + 4 * MIB, f"{loss.name}, {strategy}: {used / MIB:.0f} MiB"


def step(rank: int, loss, rows: int, width: int, strategy: str, workspace: int) -> int:
    """Peak resident bytes above what was there before."""
    generator = torch.Generator().manual_seed(rank)
    a, b = (torch.randn(rows, width, generator=generator).requires_grad_() for _ in range(2))
    dist.barrier()
    Path("/proc/self/clear_refs").write_text("5")
    before = _resident("VmRSS")
    value = loss(a, b, loss.knob(10.0), normalize=True, strategy=strategy, workspace_bytes=workspace, group=dist.group.WORLD)
    value.backward()
    return _resident("VmHWM") - before


def _resident(name: str) -> int:
    return next(
        int(line.split()[1]) * 1024 for line in Path("/proc/self/status").read_text().splitlines() if line.startswith(name)
    )


def test_traffic(tmp_path: Path) -> None:
    run_processes(traffic, tmp_path, 3)


def traffic(rank: int) -> None:
    """Ring: features take all hops but the last home, sums and accumulators every one."""
    rows, width = (20, 20, 20), 16
    batch, ranks = Batch.of(rows, d=width), 3
    n = rows[rank]
    features, vector = n * width * 8, n * 8
    accumulators = ranks * features
    sums = ranks * vector
    for loss, forward, backward in (
        (CLIP, (ranks - 1) * features + sums, (ranks - 1) * (features + 3 * vector) + accumulators),
        (NT_XENT, (ranks - 1) * 2 * (features + vector), (ranks - 1) * 2 * (features + 4 * vector)),
    ):
        a, b = (x.requires_grad_() for x in batch.part(rank))
        with counted() as sent:
            value = loss(a, b, loss.knob(10.0), group=dist.group.WORLD, strategy="ring")
        assert sent.sent["ring"] == forward, (loss.name, sent)
        with counted() as sent:
            value.backward()
        assert sent.sent["ring"] == backward, (loss.name, sent)
