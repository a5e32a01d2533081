"""Losses over a process group on GPUs: NCCL with one GPU for each process, or gloo with two processes on a single GPU."""

from __future__ import annotations

import itertools
from pathlib import Path

import pytest
import torch
import torch.distributed as dist
from distributed_cases import LOSSES, STRATEGIES, Batch, Call
from helpers import error
from processes import run_processes


def test_gloo_on_one_gpu(tmp_path: Path) -> None:
    run_processes(on_one_gpu, tmp_path, 2, seconds=240)


def on_one_gpu(rank: int) -> None:
    try:
        dist.all_reduce(torch.ones(1, device="cuda"))
    except RuntimeError as reason:
        pytest.skip(f"this build's gloo does not take CUDA tensors: {reason}")
    compare(rank, dist.group.WORLD)


def test_nccl(tmp_path: Path) -> None:
    if torch.cuda.device_count() < 2:
        pytest.skip("NCCL needs a GPU for each process, and there is one")
    run_processes(with_nccl, tmp_path, min(4, torch.cuda.device_count()), seconds=240)


def with_nccl(rank: int) -> None:
    torch.cuda.set_device(rank)
    compare(rank, dist.new_group(backend="nccl"))


def compare(rank: int, group: dist.ProcessGroup) -> None:
    limits = {torch.float32: 1e-5, torch.bfloat16: 4e-3, torch.float16: 6e-4}
    rows = (130, 77, 200, 64)[: group.size()]
    for loss, strategy, (dtype, limit) in itertools.product(LOSSES, STRATEGIES, limits.items()):
        call = Call(loss, 14.3, dtype, options={"normalize": True}, device="cuda")
        got = call.everywhere(Batch.of(rows, d=64), rank, group, strategy=strategy)
        want = call.expected(Batch.of(rows, d=64), rank)
        errors = {k: error(g / group.size(), want.grads[k]) for k, g in got.grads.items()}
        assert error(got.value, want.value) < 1e-5
        assert max(errors.values()) < limit, (loss, strategy, dtype, errors)
