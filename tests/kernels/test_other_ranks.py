"""The Triton backend's tiles of other ranks' columns, in the interpreter: two processes against one in float64."""

from __future__ import annotations

import itertools
import os
from pathlib import Path

import pytest
import torch
import torch.distributed as dist
from distributed_cases import LOSSES, STRATEGIES, Batch, Call
from helpers import CLIP, SIGLIP, error, small_tiles
from processes import run_processes

from clipfast.compute.triton_backend import interpreted

pytestmark = [
    pytest.mark.skipif(not interpreted(), reason="a GPU is here: tests/gpu runs the compiled kernels"),
    pytest.mark.skipif(not dist.is_available() or not dist.is_gloo_available(), reason="needs gloo"),
]


def test_two_processes(tmp_path: Path) -> None:
    run_processes(two_processes, tmp_path, 2, seconds=120)


def two_processes(rank: int) -> None:
    os.environ["TRITON_INTERPRET"] = "1"
    from clipfast.kernels import block_sizes
    from clipfast.kernels.block_sizes import Block

    block_sizes.SAFE = Block(32, 16, 32, stages=1, warps=4, group=2)
    with small_tiles(32):
        for loss, strategy in itertools.product(LOSSES, STRATEGIES):
            near(Call(loss, 14.3, torch.float32), Batch.of((9, 36), d=8), rank, strategy, 1e-5)
        for loss in (CLIP, SIGLIP):
            near(Call(loss, 14.3, torch.float16), Batch.of((7, 20), d=8, unit=False), rank, "ring", 6e-4)
    near(Call(CLIP, 3000.0, torch.float32), Batch.of((5, 9), d=4), rank, "gather", 1e-5)  # the exact path's weights


def near(call: Call, batch: Batch, rank: int, strategy: str, limit: float) -> None:
    call.options["normalize"] = True
    got = call.everywhere(batch, rank, dist.group.WORLD, strategy=strategy, backend="triton")
    want = call.expected(batch, rank)
    errors = {k: error(g / 2, want.grads[k]) for k, g in got.grads.items()}
    assert error(got.value, want.value) < 1e-6
    assert max(errors.values()) < limit, (call, strategy, errors)
