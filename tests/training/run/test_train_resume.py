"""Runs that are killed at any moment, and resumed: the same bits as those of the uninterrupted run."""

from __future__ import annotations

import json
import multiprocessing
import os
import random
import signal
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from processes import forkserver
from tiny_run import config, letters, same_bits, steps, weights, write_pairs
from torch import Tensor

from clipfast.common import files
from clipfast.models import CLIP
from clipfast.training.run import preparation
from clipfast.training.run.engine import train
from clipfast.training.step.weight_update import Update

# Everything that a checkpoint has: a scaler whose scale changes, an average, optimizer moments, and (see ``noisy``) random
# numbers from all three generators. 18 steps, a checkpoint every 5.
SETTING: dict[str, Any] = {
    "precision": "float16", "average_decay": 0.8, "chunk_size": 5, "epochs": 6,
    "checkpoints": {"every_steps": 5, "keep": 2},
}  # fmt: skip
SECONDS = 60


def noisy(model: CLIP) -> CLIP:
    """With dropout, and with noise from NumPy's and Python's generators."""

    def noise(module: torch.nn.Module, inputs: tuple[Tensor, ...], output: Tensor) -> Tensor:
        return F.dropout(output, 0.2) * (1 + 0.1 * np.random.rand() + 0.1 * random.random())

    model.visual.register_forward_hook(noise)
    return model


def at_checkpoint(number: int, unwritten: bool) -> None:
    """Kill this process at its checkpoint ``number``: half-way through writing it, or after renaming it."""
    original, calls = torch.save, 0

    def half(contents: Any, file: Any) -> None:
        nonlocal calls
        calls += 1
        original(contents, file)
        if calls == number and unwritten:
            file.truncate(file.tell() // 2)
            os.kill(os.getpid(), signal.SIGKILL)

    def renamed(source: str, path: Path) -> None:
        os.rename(source, path)
        if calls == number:
            os.kill(os.getpid(), signal.SIGKILL)

    torch.save = half
    if not unwritten:
        files.os = type("Os", (), {**vars(os), "replace": staticmethod(renamed)})


def at_step(number: int) -> None:
    """Kill this process between a step's forward pass and its new weights."""
    original, calls = Update.__call__, 0

    def update(self: Update, loss: Tensor) -> Any:
        nonlocal calls
        calls += 1
        if calls == number:
            os.kill(os.getpid(), signal.SIGKILL)
        return original(self, loss)

    Update.__call__ = update


def child(folder: str, output: str, sabotage: tuple[Callable[..., None], tuple[Any, ...]] | None, slow: float) -> None:
    torch.set_num_threads(1)
    original = preparation.build_model
    preparation.build_model = lambda *arguments: noisy(original(*arguments))
    if sabotage is not None:
        sabotage[0](*sabotage[1])
    if slow:
        step = Update.__call__
        Update.__call__ = lambda *arguments: (time.sleep(slow), step(*arguments))[1]
    summary = train(config(Path(folder), output=output, **SETTING), resume=True, tokenizer=letters)
    raise SystemExit(0 if summary.interrupted is None else 128 + summary.interrupted)


def start(folder: Path, output: Path, sabotage: Any = None, slow: float = 0.0) -> multiprocessing.process.BaseProcess:
    process = forkserver().Process(target=child, args=(str(folder), str(output), sabotage, slow))
    process.start()
    return process


def end(process: multiprocessing.process.BaseProcess) -> int | None:
    process.join(SECONDS)
    assert not process.is_alive(), f"the run did not end within {SECONDS} s"
    return process.exitcode


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with the pairs, and the run that nobody interrupted."""
    folder = tmp_path_factory.mktemp("whole")
    write_pairs(folder)
    assert end(start(folder, folder / "run")) == 0
    assert steps(folder / "run")[-1]["overflows"] > 0
    return folder


def assert_resumes(whole: Path, output: Path) -> None:
    """Go on, and compare with the run that nobody interrupted: weights, average, moments, random numbers, every loss."""
    assert end(start(whole, output)) == 0
    assert same_bits(weights(output / "model.pt"), weights(whole / "run" / "model.pt"))
    got, want = (torch.load(run / "checkpoints" / "step-00000018.pt", weights_only=True) for run in (output, whole / "run"))
    got["run"]["output"] = want["run"]["output"]
    assert flat(got) == flat(want)
    assert steps(output) == steps(whole / "run")
    assert not [path for path in (output / "checkpoints").iterdir() if path.name.startswith(".")]


def flat(value: Any) -> Any:
    """Tensors as bytes, so that ``==`` compares everything."""
    if isinstance(value, Tensor):
        return value.dtype, tuple(value.shape), value.numpy().tobytes()
    if isinstance(value, dict):
        return {key: flat(item) for key, item in value.items()}
    return [flat(item) for item in value] if isinstance(value, (list, tuple)) else value


@pytest.mark.parametrize(
    ("sabotage", "last"),
    [
        pytest.param((at_step, (3,)), 0, id="before the first checkpoint"),
        pytest.param((at_step, (8,)), 5, id="between checkpoints"),
        pytest.param((at_checkpoint, (1, True)), 0, id="while the first checkpoint is written"),
        pytest.param((at_checkpoint, (3, True)), 10, id="while a later one is written"),
        pytest.param((at_checkpoint, (3, False)), 15, id="before the oldest is removed"),
        pytest.param((at_checkpoint, (5, True)), 18, id="while the result is written"),
    ],
)
def test_a_killed_run_goes_on(whole: Path, tmp_path: Path, sabotage: Any, last: int):
    output = tmp_path / "run"
    assert end(start(whole, output, sabotage)) == -signal.SIGKILL
    found = sorted((output / "checkpoints").glob("step-*.pt")) if (output / "checkpoints").exists() else []
    assert [int(path.stem[5:]) for path in found][-1:] == ([last] if last else [])  # no more than the steps since then are lost
    assert not (output / "model.pt").exists()
    assert_resumes(whole, output)


def test_killed_again_and_again(whole: Path, tmp_path: Path):
    """Killed from outside, at any moment."""
    output = tmp_path / "run"
    for patience in (0.15, 0.4, 0.25, 0.6):
        process = start(whole, output, slow=0.03)
        time.sleep(patience)
        process.kill()
        assert end(process) == -signal.SIGKILL
    assert_resumes(whole, output)


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_ends_a_run_with_a_checkpoint(whole: Path, tmp_path: Path, number: signal.Signals):
    output = tmp_path / "run"
    process = start(whole, output, slow=0.05)
    log = output / "log.jsonl"
    deadline = time.monotonic() + SECONDS
    while not (log.exists() and len(log.read_text().splitlines()) > 3):
        assert time.monotonic() < deadline
        time.sleep(0.01)
    assert process.pid is not None
    os.kill(process.pid, number)
    assert end(process) == 128 + number
    last = json.loads(log.read_text().splitlines()[-1])
    assert last["event"] == "interrupted"
    assert 2 < last["step"] < 18
    assert (output / "checkpoints" / f"step-{last['step']:08d}.pt").exists()
    assert not (output / "model.pt").exists()
    assert_resumes(whole, output)


def test_a_finished_run_has_nothing_to_add(whole: Path, tmp_path: Path):
    before = weights(whole / "run" / "model.pt")
    (whole / "run" / "model.pt").unlink()
    checkpoint = whole / "run" / "checkpoints" / "step-00000018.pt"
    written = checkpoint.stat().st_mtime_ns
    assert end(start(whole, whole / "run")) == 0
    assert checkpoint.stat().st_mtime_ns == written
    assert same_bits(weights(whole / "run" / "model.pt"), before)
    assert len(steps(whole / "run")) == 18
