"""Runs that cannot begin, or cannot go on: errors, diagnoses, and what is kept."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import pytest
import torch
from tiny_run import config, letters, run, steps, write_pairs

from clipfast.training.records.run_log import read_log
from clipfast.training.run import engine
from clipfast.training.run.engine import train
from clipfast.training.settings.parse import ConfigError
from clipfast.training.step.diagnosis import NotFiniteError

pytestmark = pytest.mark.usefixtures("one_thread")


@pytest.fixture(autouse=True)
def pairs(tmp_path: Path) -> Path:
    return write_pairs(tmp_path)


def test_pairs_that_cannot_be_read_are_counted_and_named(tmp_path: Path):
    (tmp_path / "5.png").write_bytes(b"no picture")
    summary = run(
        tmp_path, epochs=2, log={"every_steps": 100}
    )  # pairs skipped since the last line are logged before a checkpoint
    assert summary.progress.skipped == 2
    assert list(summary.progress.named) == [f"{tmp_path}/pairs.csv:7"]
    log = read_log(tmp_path / "run" / "log.jsonl")
    assert [line["where"] for line in log if line["event"] == "skipped"] == [f"{tmp_path}/pairs.csv:7"] * 2
    assert "5.png" in next(line["why"] for line in log if line["event"] == "skipped")
    assert log[-1]["skipped"] == 2


def test_a_loss_that_is_not_finite_stops_with_a_diagnosis(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    original = engine.train_step

    def spoiling(run, state, batch):
        if state.progress.step == 4:
            state.model.text_projection.data[0, 0] = math.nan
        return original(run, state, batch)

    monkeypatch.setattr("clipfast.training.run.engine.train_step", spoiling)
    with pytest.raises(
        NotFiniteError, match=r"stopped at step 5, learning rate 0\.00\d+: the loss is nan; the parameter text_pro"
    ):
        run(tmp_path)
    last = read_log(tmp_path / "run" / "log.jsonl")[-1]
    assert (last["event"], last["step"]) == ("failed", 5)
    assert "text_projection" in last["error"]
    files = sorted(path.name for path in (tmp_path / "run" / "checkpoints").iterdir())
    assert files == ["step-00000002.pt", "step-00000004.pt"]
    monkeypatch.undo()
    remedy = config(tmp_path, precision="float16", optimizer={"learning_rate": 1e-4, "max_gradient_norm": 1.0})
    assert train(remedy, resume=True, tokenizer=letters).progress.step == 9
    lines = steps(tmp_path / "run")
    assert [line["step"] for line in lines] == list(range(1, 10))
    assert lines[3]["learning_rate"] > 5e-3
    assert lines[4]["learning_rate"] < 1e-4


def test_gradients_that_overflow_too_often_stop(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr("clipfast.training.step.weight_update.get_total_norm", lambda gradients: torch.tensor(math.inf))
    with pytest.raises(NotFiniteError, match=r"stopped at step 1, .*: the norm of the gradient is inf \(the loss is "):
        run(tmp_path)
    with pytest.raises(NotFiniteError, match=r"stopped at step 20, .* is inf in 20 steps in a row \(the loss is "):
        run(tmp_path, output=str(tmp_path / "half"), precision="float16", epochs=8)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"optimizer": {"warmup_steps": 9}}, "warmup_steps must be less than the whole run's 9 steps; got 9"),
        ({"batch_size": 25}, "24 pairs, enough for 0 batches of 25"),
        ({"data": {"source": "nowhere.csv"}}, r"^data: there is no file or folder nowhere\.csv"),
        (
            {"evaluation": {"retrieval": {"source": "nowhere.csv"}}},
            r"^evaluation\.retrieval: there is no file or folder nowhere",
        ),
        ({"output": __file__}, r"^output must be a folder that can be made; got .*: File exists"),
        ({"device": "nowhere"}, "device must be one that torch can use here; got 'nowhere'"),
        ({"model": {"weights": "nowhere.pt"}}, r"^model\.weights: there is no file nowhere\.pt"),
    ],
)
def test_a_run_that_cannot_begin_says_why(tmp_path: Path, changes: dict[str, Any], message: str):
    with pytest.raises((ValueError, OSError), match=message):
        run(tmp_path, **changes)
    assert not (tmp_path / "run" / "checkpoints").exists()


def test_a_folder_in_use_is_left_alone(tmp_path: Path):
    run(tmp_path)
    before = {path: path.stat().st_mtime_ns for path in (tmp_path / "run").rglob("*")}
    with pytest.raises(ConfigError, match="has checkpoints of a run already; continue it with --resume"):
        run(tmp_path)
    with pytest.raises(
        ConfigError, match=r"another configuration: epochs was 3 and is 4; optimizer\.weight_decay was 0\.2 and is 0\.1\."
    ):
        train(config(tmp_path, epochs=4, optimizer={"weight_decay": 0.1}), resume=True, tokenizer=letters)
    assert {path: path.stat().st_mtime_ns for path in (tmp_path / "run").rglob("*")} == before
