"""Bytes, operations and memory of the plan against those of two and three processes under gloo."""

from __future__ import annotations

import functools
import itertools
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

import pytest
import torch
import torch.distributed as dist
from helpers import LOSSES, counted_products, random_pairs, small_tiles
from plan_cases import SERVED, peak_allocated
from processes import run_processes
from torch import Tensor

from clipfast.common.limits import using
from clipfast.distributed.blocks import EXCHANGES, blocks
from clipfast.distributed.traffic import counted, note
from clipfast.plan import bytes_sent, memory, operations, strategies
from clipfast.plan.problem import DTYPES, Problem

pytestmark = pytest.mark.skipif(not dist.is_available() or not dist.is_gloo_available(), reason="needs gloo")
FEW_NUMBERS = 1024
"""Bytes that the exchanges of sizes, bounds and sums may take beside the columns'."""


def features(problem: Problem, rank: int) -> tuple[Tensor, Tensor]:
    own = slice(sum(problem.pairs_of_ranks[:rank]), sum(problem.pairs_of_ranks[: rank + 1]))
    wanted = (problem.wants_rows, problem.wants_columns)
    pairs = (x[own].to(getattr(torch, problem.dtype)) for x in random_pairs(problem.batch, problem.dim))
    a, b = (x.requires_grad_(w) for x, w in zip(pairs, wanted, strict=True))
    return a, b


@contextmanager
def calls() -> Iterator[list[str]]:
    """The kind of each exchange, in order."""
    kinds: list[str] = []
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("clipfast.distributed.traffic.note", lambda kind, *tensors: (kinds.append(kind), note(kind, *tensors)))
        yield kinds


def step(problem: Problem, strategy: str, inputs: tuple[Tensor, Tensor]) -> None:
    loss = next(x for x in LOSSES if x.name == problem.loss)
    options = {"group": dist.group.WORLD, "strategy": strategy, "workspace_bytes": problem.workspace_bytes}
    value = loss(*inputs, loss.knob(10.0), normalize=problem.normalize, **options)
    if problem.trains:
        value.backward()


@pytest.mark.parametrize("ranks", [2, 3])
def test_bytes_and_operations(ranks: int, tmp_path: Path) -> None:
    run_processes(counts, tmp_path, ranks)


def counts(rank: int) -> None:
    """Even batches in every dtype, and uneven ones with every choice of gradients."""
    ranks = dist.get_world_size()
    for loss, strategy in itertools.product(LOSSES, EXCHANGES):
        even = Problem(loss.name, 20 * ranks, 24, ranks=ranks, device="cpu")
        for dtype in DTYPES:
            check_counts(replace(even, dtype=dtype), strategy, rank)
            check_auto(replace(even, dtype=dtype), rank)
        for numbers in (1000, 3000):  # of which some tiles are kept
            with small_tiles():
                check_counts(replace(even, dtype="float32", workspace_bytes=4 * numbers), strategy, rank)
        for gradients in (gradients for served, gradients in SERVED if served == loss):
            uneven = replace(even, batch=even.batch + 1, dtype="float32", gradients=gradients, normalize=False)
            check_counts(uneven, strategy, rank)


def check_counts(problem: Problem, strategy: str, rank: int) -> None:
    inputs = features(problem, rank)
    backend = "torch" if problem.dtype == "float64" else "cpu"
    with counted() as found, counted_products(backend) as products, calls() as exchanges:
        step(problem, strategy, inputs)
    large = {kind: count for kind, count in found.sent.items() if kind in ("ring", "gather", "reduce_scatter")}
    assert large == bytes_sent.handed(problem, strategy, rank), (problem, strategy)
    assert sum(found.sent.values()) - sum(large.values()) < FEW_NUMBERS, found.sent
    assert sum(kind in ("all_gather", "all_reduce") for kind in exchanges) == bytes_sent.small_exchanges(problem), (
        problem,
        exchanges,
    )
    if strategy == "gather":
        collectives = sum(kind in ("gather", "reduce_scatter") for kind in exchanges)
        assert collectives == sum(len(p.inputs + p.outputs) for p in bytes_sent.column_bytes(problem))
    planned = operations.grouped(problem, rank, blocks(strategy, problem.rows_of_ranks, rank))
    assert 2 * sum(products.values()) == sum(p.operations for p in planned), (problem, strategy)


def check_auto(problem: Problem, rank: int) -> None:
    """On both sides of the limit."""
    gathered = problem.ranks * max(problem.rows_of_ranks) * problem.dim * (problem.given_bytes + problem.wide_bytes)
    for limit, taken in ((gathered, "gather"), (gathered - 1, "ring")):
        with using(gathered_bytes=limit), counted() as found:
            step(problem, "auto", features(problem, rank))
            assert strategies.chosen(problem) == taken
        assert taken in found.sent


def test_memory(tmp_path: Path) -> None:
    run_processes(peaks, tmp_path, 3)


def peaks(rank: int) -> None:
    with using(reused_bytes=0):  # copies for this call alone, so that they are seen
        for loss, strategy in itertools.product(LOSSES, EXCHANGES):
            check_peak(Problem(loss.name, 3 * 384, 256, "float32", 3, device="cpu", workspace_bytes=2**20), strategy, rank)
        for strategy in EXCHANGES:
            check_peak(Problem("clip", 3 * 384, 256, "bfloat16", 3, device="cpu", workspace_bytes=2**20), strategy, rank)


def check_peak(problem: Problem, strategy: str, rank: int) -> None:
    inputs = features(problem, rank)
    parts = memory.grouped(problem, strategy, rank)
    planned = sum(parts.values()) - parts["features"]
    # Gloo has a copy of what it gathers, and frees it when its thread comes to it: those of both passes may live at once.
    staged = (1 + problem.two_passes) * parts["columns"] if strategy == "gather" else 0
    measured = peak_allocated(functools.partial(step, problem, strategy, inputs))
    assert 0.9 * planned < measured < 1.1 * planned + staged, (problem, strategy, measured, parts)
