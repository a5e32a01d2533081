"""CachedStep under DDP and FSDP2, two processes on the CPU: equal to the uncached step of the same processes."""

from __future__ import annotations

import time
from pathlib import Path

import pytest
import torch
import torch.distributed as dist
from cached_cases import Pair, assert_same, cached, fused, gradients, pairs, plain, whole
from processes import run_processes
from torch import Tensor, nn
from torch.distributed.fsdp import fully_shard
from torch.nn.parallel import DistributedDataParallel

from clipfast import clip_loss
from clipfast.training import CachedStep

pytestmark = pytest.mark.skipif(not dist.is_available() or not dist.is_gloo_available(), reason="needs gloo")
SIZES = (12, 17)  # of the two processes' batches, 3 and 5 chunks of 4


def test_ddp(tmp_path: Path):
    run_processes(ddp_cases, tmp_path)


def ddp_cases(rank: int) -> None:
    inputs = pairs(SIZES[rank], seed=rank)
    same_bits_as_ddp(inputs)
    averages_once(inputs)
    towers_apart(inputs)
    shared_tower(inputs)
    scale_outside_forward(inputs)
    accumulation(inputs)
    batch_norm(inputs)
    one_batch_of_all_ranks(rank)


def new(**options) -> tuple[Pair, DistributedDataParallel]:
    torch.manual_seed(0)
    model = Pair()
    return model, DistributedDataParallel(model, **options)


def averaged(gradients: dict[str, Tensor]) -> dict[str, Tensor]:
    for grad in gradients.values():
        dist.all_reduce(grad)
        grad.div_(2)
    return gradients


def same_bits_as_ddp(inputs: tuple[Tensor, Tensor]) -> None:
    """One chunk holds the batch, dropout on; two steps, since DDP rearranges its buckets after the first."""
    model, ddp = new()
    step = CachedStep([ddp], whole, 100)
    for seed in (1, 2):
        want = plain(model, [model.image, model.text], model.loss, inputs, 100, seed=seed)
        model.zero_grad()
        torch.manual_seed(seed)
        value = whole(ddp(inputs))
        value.backward()
        assert_same((value, gradients(model)), (want[0], averaged(want[1])), 1e-12)  # the reference agrees with DDP
        assert_same(cached(model, step, [inputs], seed=seed), (value.detach(), gradients(model)))


def one_graph(model: Pair, inputs: tuple[Tensor, Tensor], chunk: int, seed: int) -> tuple[Tensor, dict[str, Tensor]]:
    """As ``plain``, but both towers encode a chunk before the next one: the order in which one module uses random numbers."""
    model.zero_grad()
    torch.manual_seed(seed)
    parts = [model(both) for both in zip(*(x.split(chunk) for x in inputs), strict=True)]
    value = whole((torch.cat([p[0] for p in parts]), torch.cat([p[1] for p in parts]), model.log_scale.exp()))
    value.backward()
    return value.detach(), averaged(gradients(model))


def averages_once(inputs: tuple[Tensor, Tensor]) -> None:
    """Different numbers of chunks in the two processes, dropout on: one exchange, in the last chunk."""
    model, ddp = new()
    exchanges = 0

    def count(_, bucket):
        nonlocal exchanges
        exchanges += 1
        return dist.all_reduce(bucket.buffer().div_(2), async_op=True).get_future().then(lambda f: f.value()[0])

    ddp.register_comm_hook(None, count)
    step = CachedStep([ddp], whole, 4, verify=True)
    for seed in (1, 2, 3):
        assert_same(cached(model, step, [inputs], seed=seed), one_graph(model, inputs, 4, seed), 1e-12)
        assert exchanges == seed


def one_batch_of_all_ranks(rank: int) -> None:
    """The loss over the group, each rank's part in chunks: one process's step on the whole batch, without caching."""
    everything = pairs(sum(SIZES))
    own = [x.split(SIZES)[rank] for x in everything]
    alone, _ = new()
    alone.eval()
    want = plain(alone, [alone.image, alone.text], alone.loss, everything, 100)
    for strategy in ("ring", "gather"):
        model, ddp = new()
        model.eval()
        options = {"normalize": True, "group": dist.group.WORLD, "strategy": strategy}
        step = CachedStep([ddp], lambda outputs, options=options: clip_loss(*outputs, **options), 4, verify=True)
        assert_same(cached(model, step, [own]), want, 1e-12)


def towers_apart(inputs: tuple[Tensor, Tensor]) -> None:
    """Each tower in its own DDP, called by functions; the scale belongs to none of them, and its gradient stays local."""
    model, _ = new()
    image, text = DistributedDataParallel(model.image), DistributedDataParallel(model.text)
    step = CachedStep([lambda x: 1 * image(x), lambda x: 1 * text(x)], model.loss, [4, 6])
    model.eval()
    for seed in (1, 2):
        want = plain(model, [model.image, model.text], model.loss, inputs, 100)
        local = want[1].pop("log_scale")
        want = want[0], {**averaged(want[1]), "log_scale": local}
        assert_same(cached(model, step, inputs, seed=seed), want, 1e-12)


def shared_tower(inputs: tuple[Tensor, Tensor]) -> None:
    model, _ = new()
    ddp = DistributedDataParallel(model.image)
    step = CachedStep([ddp, ddp], lambda a, b: fused(a, b, 3.0), 4)
    for seed in (1, 2):
        want = plain(model, [model.image] * 2, lambda a, b: fused(a, b, 3.0), inputs, 4, seed=seed)
        used = {name: g for name, g in want[1].items() if g is not None}
        assert_same(cached(model, step, inputs, seed=seed), (want[0], averaged(used)), 1e-12)


def scale_outside_forward(inputs: tuple[Tensor, Tensor]) -> None:
    """DDP must see every parameter in the pass that exchanges gradients, or be told to look for unused ones."""

    class Features(Pair):
        def forward(self, batch):
            return super().forward(batch)[:2]

    torch.manual_seed(0)
    model = Features()
    ddp = DistributedDataParallel(model)
    with pytest.raises(RuntimeError, match=r"gradient of every parameter in the last chunk, .*; got no gradient of log_scale;"):
        CachedStep([ddp], lambda out: model.loss(*out), 4)(inputs)
    assert all(p.grad is None for p in model.parameters())
    with pytest.raises(ValueError, match="build it without static_graph"):
        CachedStep([DistributedDataParallel(model, static_graph=True)], whole, 4)
    model.eval()
    ddp = DistributedDataParallel(model, find_unused_parameters=True)
    step = CachedStep([ddp], lambda out: model.loss(*out), 4)
    for seed in (1, 2):
        want = plain(model, [model.image, model.text], model.loss, inputs, 100)
        assert_same(cached(model, step, [inputs], seed=seed), (want[0], averaged(want[1])), 1e-12)


def accumulation(inputs: tuple[Tensor, Tensor]) -> None:
    model, ddp = new()
    model.eval()
    value, want = plain(model, [model.image, model.text], model.loss, inputs, 100)
    step = CachedStep([ddp], whole, 4)
    assert_same((cached(model, lambda x: step(x, synchronize=False), [inputs])[0], gradients(model)), (value, want), 1e-12)
    step(inputs)
    assert_same((value, gradients(model)), (value, averaged({name: 2 * g for name, g in want.items()})), 1e-12)
    with ddp.no_sync():
        assert_same(cached(model, step, [inputs]), plain(model, [model.image, model.text], model.loss, inputs, 100), 1e-12)


def batch_norm(inputs: tuple[Tensor, Tensor]) -> None:
    """DDP hands rank 0's running statistics to all before a step; each chunk then counts once."""
    images, _ = inputs
    torch.manual_seed(0)
    module = nn.Sequential(nn.Linear(5, 6), nn.BatchNorm1d(6)).double()
    ddp = DistributedDataParallel(module)
    step = CachedStep([ddp], lambda a: fused(a, a.detach(), 3.0), 5)
    with torch.no_grad():
        module[1].running_mean += 1.0 - dist.get_rank()
    expected = nn.Sequential(nn.Linear(5, 6), nn.BatchNorm1d(6)).double()
    expected.load_state_dict(module.state_dict())
    for _ in range(2):
        for buffer in expected.buffers():
            dist.broadcast(buffer, 0)
        with torch.no_grad():
            for chunk in images.split(5):
                expected(chunk)
        step(images)
        assert all(torch.equal(b, w) for b, w in zip(module.buffers(), expected.buffers(), strict=True))


def test_fsdp2(tmp_path: Path):
    run_processes(fsdp_cases, tmp_path)


def fsdp_cases(rank: int) -> None:
    """Weights and gradients are sharded; between chunks gradients are not exchanged."""
    inputs = pairs(20 - rank, seed=rank)  # as many chunks in both, because each forward pass gathers the weights
    model, _ = new()
    want = plain(model, [model.image, model.text], lambda a, b: fused(a, b, 3.0), inputs, 4)
    used = averaged({name: g for name, g in want[1].items() if g is not None})
    mesh = dist.device_mesh.init_device_mesh("cpu", (2,))
    for part in (model.image, model.text):
        fully_shard(part[0], mesh=mesh)
        fully_shard(part, mesh=mesh)
    step = CachedStep([model.image, model.text], lambda a, b: fused(a, b, 3.0), 4, verify=True)
    for _ in range(2):
        model.zero_grad()
        torch.manual_seed(1)
        value = step(*inputs).loss
        got = {name: p.grad.full_tensor() for name, p in model.named_parameters() if p.grad is not None}
        assert_same((value, got), (want[0], used), 1e-12)


def test_a_failing_process_ends_the_others(tmp_path: Path):
    start = time.monotonic()
    with pytest.raises(AssertionError, match=r"process 1:(?s:.)*MemoryError: no room"):
        run_processes(one_fails, tmp_path)
    assert time.monotonic() - start < 20


def one_fails(rank: int) -> None:
    _, ddp = new()

    def tower(batch: tuple[Tensor, Tensor]) -> tuple[Tensor, Tensor, Tensor]:
        if rank == 1:
            raise MemoryError("no room")
        return ddp(batch)

    CachedStep([tower], whole, 4)(pairs(8))
