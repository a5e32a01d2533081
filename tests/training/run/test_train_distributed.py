"""Two processes train as one does on the same global batches."""

from __future__ import annotations

import os
import shutil
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.distributed as dist
from processes import run_processes
from tiny_run import EXACT, config, letters, same_bits, steps, weights, write_pairs

from clipfast.training.records.run_log import read_log
from clipfast.training.run import engine
from clipfast.training.run.engine import train
from clipfast.training.settings.parse import ConfigError
from clipfast.training.step.diagnosis import NotFiniteError
from clipfast.training.step.weight_update import Update

pytestmark = pytest.mark.skipif(not dist.is_available() or not dist.is_gloo_available(), reason="needs gloo")

# What every process checks in turn: a batch of 8 is 4 in each, in two chunks.
CASES: dict[str, dict[str, Any]] = {
    "softmax": EXACT,
    "sigmoid": {**EXACT, "model": {"loss": "sigmoid"}},
    "chunks": {**EXACT, "chunk_size": 2},
    "locked": {**EXACT, "chunk_size": 3, "model": {"lock_image_tower": True}},
}


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Pairs, one of them unreadable, so that the processes' batches are uneven; and the runs of one process."""
    folder = tmp_path_factory.mktemp("pairs")
    write_pairs(folder)
    (folder / "5.png").write_bytes(b"no picture")
    for name, changes in CASES.items():
        train(config(folder, output=str(folder / "one" / name), **changes), tokenizer=letters)
    return folder


def test_two_processes_train_as_one(folder: Path, tmp_path: Path):
    run_processes(partial(in_each, str(folder)), tmp_path, seconds=120)
    for name in CASES:
        one, two = folder / "one" / name, folder / "two" / name
        close(weights(two / "model.pt"), weights(one / "model.pt"))
        assert [line["gradient_norm"] for line in steps(two)] == pytest.approx(
            [s["gradient_norm"] for s in steps(one)], rel=1e-7
        )
        assert steps(two)[-1]["skipped"] == steps(one)[-1]["skipped"] == 3
    assert same_bits(weights(folder / "again" / "model.pt"), weights(folder / "two" / "softmax" / "model.pt"))
    assert steps(folder / "again") == steps(folder / "two" / "softmax")
    train(
        config(folder, output=str(folder / "alone"), **EXACT), resume=True, tokenizer=letters
    )  # with another number of processes
    close(weights(folder / "alone" / "model.pt"), weights(folder / "one" / "softmax" / "model.pt"))


def close(got: dict[str, torch.Tensor], want: dict[str, torch.Tensor]) -> None:
    assert got.keys() == want.keys()
    for name, value in want.items():
        torch.testing.assert_close(got[name], value, rtol=1e-8, atol=1e-10, msg=lambda text, name=name: f"{name}: {text}")


def in_each(folder: str, rank: int) -> None:
    pairs = Path(folder)
    for name, changes in CASES.items():
        train(config(pairs, output=str(pairs / "two" / name), **changes), tokenizer=letters)
    interrupted_in_one(pairs, rank)
    stopped_by_one(pairs, rank)
    with pytest.raises(ConfigError, match="must be a multiple of their number, 2; got 7"):
        train(config(pairs, batch_size=7), tokenizer=letters)


def interrupted_in_one(pairs: Path, rank: int) -> None:
    """Only one process gets the signal, and both stop at the same step; then they go on, and later one process alone."""
    original, calls = Update.__call__, 0

    def update(self: Update, loss: torch.Tensor) -> Any:
        nonlocal calls
        calls += 1
        if calls == 4 and rank == 1:
            os.kill(os.getpid(), 15)
        return original(self, loss)

    Update.__call__ = update
    again = config(pairs, output=str(pairs / "again"), **EXACT)
    summary = train(again, tokenizer=letters)
    Update.__call__ = original
    assert summary.interrupted == 15
    assert summary.result is None
    assert summary.progress.step == 4
    if rank == 0:
        shutil.copytree(pairs / "again", pairs / "alone")
    dist.barrier()
    assert train(again, resume=True, tokenizer=letters).progress.step == 9


def stopped_by_one(pairs: Path, rank: int) -> None:
    """All processes report what one of them finds."""
    original = engine.diagnose

    def spoiled(model: Any, images: torch.Tensor, *rest: Any) -> str:
        images = images.clone()
        images[0] = float("nan") if rank == 1 else 0.0
        return original(model, images, *rest)

    engine.diagnose = spoiled
    loss = Update.__call__
    Update.__call__ = lambda self, value: loss(self, value * float("nan"))
    with pytest.raises(NotFiniteError, match=r"pictures, the first at place 0, are not finite in process 1;"):
        train(config(pairs, output=str(pairs / "stopped")), tokenizer=letters)
    Update.__call__, engine.diagnose = loss, original
    if rank == 0:
        assert "in process 1" in read_log(pairs / "stopped" / "log.jsonl")[-1]["error"]
