"""Evaluations during a run."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from tiny_run import ALONE, config, letters, run, same_bits, weights, write_pairs

from clipfast.models import CLIP
from clipfast.training.records.run_log import read_log
from clipfast.training.run.interim_evaluation import evaluate
from clipfast.training.run.preparation import prepare

pytestmark = pytest.mark.usefixtures("one_thread")


@pytest.fixture(autouse=True)
def pairs(tmp_path: Path) -> Path:
    return write_pairs(tmp_path)


def test_evaluation_in_between_leaves_no_trace(tmp_path: Path):
    held_out = {"source": str(tmp_path / "pairs.csv"), "workers": 0}
    plain = run(tmp_path, output=str(tmp_path / "plain"))
    both = {"retrieval": held_out, "zero_shot": {**held_out, "templates": ["{}"]}, "every_steps": 4, "batch_size": 5}
    summary = run(tmp_path, evaluation=both)
    lines = [line for line in read_log(tmp_path / "run" / "log.jsonl") if line["event"] == "evaluation"]
    assert [line["step"] for line in lines] == [4, 8, 9]
    assert lines[-1]["retrieval/pictures"] == lines[-1]["zero_shot/pictures"] == 24
    assert 0 <= lines[-1]["zero_shot/top1"] <= lines[-1]["zero_shot/top5"] <= 1
    assert summary.progress.metrics["zero_shot/top1"] == lines[-1]["zero_shot/top1"]
    assert plain.result is not None
    assert summary.result is not None
    assert same_bits(weights(summary.result), weights(plain.result))
    every_epoch = run(tmp_path, output=str(tmp_path / "epochs"), evaluation={"retrieval": held_out}, epochs=2)
    assert every_epoch.progress.metrics["retrieval/pictures"] == 24
    log = read_log(tmp_path / "epochs" / "log.jsonl")
    assert [line["step"] for line in log if line["event"] == "evaluation"] == [3, 6]


def test_evaluation_uses_no_random_numbers_of_the_training(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    def measure(model: CLIP, *_: Any, **options: Any) -> dict[str, float]:
        assert options == {"batch_size": 256}
        return {"drawn": torch.rand(1).item()}

    monkeypatch.setattr("clipfast.training.run.interim_evaluation.retrieval_metrics", measure)
    held_out = {"retrieval": {"source": str(tmp_path / "pairs.csv")}}
    state = prepare(config(tmp_path), ALONE, letters)[1]
    before = torch.get_rng_state()
    assert evaluate(state, config(tmp_path, evaluation=held_out).evaluation, letters).keys() == {"retrieval/drawn"}
    assert torch.equal(torch.get_rng_state(), before)
