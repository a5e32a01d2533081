"""The comparison of `python -m clipfast bench` under pytest-benchmark: one row for each loss, size and contender.

    python -m pytest benchmarks/bench_losses.py --benchmark-json=benchmarks/results/losses.json

Times are of one forward and backward pass. Only ratios within one run mean anything.
"""

from __future__ import annotations

import pytest
import torch

from clipfast.bench.cases import cases, features
from clipfast.bench.measure import step
from clipfast.losses.declaration import LOSSES

SIZES = (256, 1024, 4096)
DIM = 512


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=["float32", "bfloat16"])
@pytest.mark.parametrize("n", SIZES)
@pytest.mark.parametrize(
    ("loss", "case"), [(loss, c) for loss in LOSSES for c in cases(loss)], ids=lambda v: getattr(v, "name", v)
)
def test_forward_backward(benchmark, loss, case, n, dtype):
    inputs = features(n, DIM, dtype)
    benchmark.group = f"{loss} N={n} D={DIM} {dtype}"
    benchmark.extra_info["flops"] = LOSSES[loss].least_products * n * n * DIM
    benchmark.pedantic(step, args=(case.loss, inputs), rounds=5, warmup_rounds=2)
