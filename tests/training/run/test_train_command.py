"""``python -m clipfast train``: from a TOML file and flags to a model that ``classify`` uses."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from tiny_run import steps, write_pairs
from torch import Tensor
from typer.testing import CliRunner

from clipfast.cli.app import app
from clipfast.training.run import preparation
from clipfast.training.step.weight_update import Update

pytestmark = pytest.mark.usefixtures("one_thread")

FILE = """
output = "run"
batch_size = 8
epochs = 2
[model]
embed_dim = 6
vision = {image_size = 8, patch_size = 4, width = 8, layers = 1, heads = 2}
text = {context_length = 8, vocab_size = 49408, width = 8, layers = 1, heads = 2}
[data]
source = "pairs.csv"
workers = 0
[log]
every_steps = 2
[evaluation]
zero_shot = {source = "pairs.csv", templates = ["{}"], workers = 0}
"""


@pytest.fixture(autouse=True)
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    write_pairs(tmp_path)
    (tmp_path / "run.toml").write_text(FILE)
    monkeypatch.chdir(tmp_path)
    return tmp_path


def command(*arguments: str) -> Any:
    return CliRunner(env={"COLUMNS": "200"}).invoke(app, list(arguments))


def test_from_pairs_to_a_classifier(folder: Path):
    (folder / "3.png").write_bytes(b"no picture")
    done = command("train", "run.toml", "--epochs", "3", "--optimizer.learning-rate=1e-2", "--log.tensorboard")
    assert done.exit_code == 0, done.output
    assert "step 8 of 9  loss" in done.output
    assert "9 steps, " in done.output
    assert "zero_shot/top1 0." in done.output
    assert (
        "3 pairs could not be read and were left out; run/log.jsonl names them:\n  pairs.csv:5: ./3.png: not a picture"
        in done.output
    )
    assert done.output.endswith("model: run/model.pt\n")
    assert [line["step"] for line in steps(folder / "run")] == [2, 4, 6, 8]
    assert list((folder / "run" / "tensorboard").glob("events.*"))
    (folder / "other.png").write_bytes((folder / "4.png").read_bytes())
    named = command("classify", "other.png", "--labels", "red,green", "--model", "run/model.pt")
    assert named.exit_code == 0, named.output
    assert "red" in named.output or "green" in named.output


def test_a_signal_is_an_exit_status_and_resume_goes_on(folder: Path, monkeypatch: pytest.MonkeyPatch):
    original = Update.__call__

    def update(self: Update, loss: Tensor) -> Any:
        os.kill(os.getpid(), signal.SIGTERM)
        return original(self, loss)

    with monkeypatch.context() as patch:
        patch.setattr(Update, "__call__", update)
        stopped = command("train", "run.toml")
    assert stopped.exit_code == 128 + signal.SIGTERM
    assert "SIGTERM came: stopped after step 1; --resume goes on from run/checkpoints/step-00000001.pt" in stopped.output
    assert signal.getsignal(signal.SIGTERM) == signal.SIG_DFL
    again = command("train", "run.toml")
    assert again.exit_code == 1
    assert "got run, which has checkpoints of a run already; continue it with --resume" in again.output
    done = command("train", "--resume", "run.toml")
    assert done.exit_code == 0, done.output
    assert "6 steps, " in done.output


def test_a_signal_before_the_first_step(folder: Path, monkeypatch: pytest.MonkeyPatch):
    original = preparation.build_model

    def build(*arguments: Any) -> Any:
        os.kill(os.getpid(), signal.SIGINT)
        return original(*arguments)

    monkeypatch.setattr(preparation, "build_model", build)
    done = command("train", "run.toml")
    assert done.exit_code == 128 + signal.SIGINT
    assert done.output == "SIGINT came before the first step: there is nothing to go on from\n"
    assert not (folder / "run" / "checkpoints").exists()


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ((), "output, model, data, batch_size must be given: there is no default"),
        (("nowhere.toml",), "the configuration file nowhere.toml cannot be read: No such file or directory"),
        (("run.toml", "--epoch", "3"), "unknown configuration key epoch (did you mean epochs?); accepted there: output"),
        (("run.toml", "--data.source", "pairs.xml"), "there is no file or folder pairs.xml"),
        (("run.toml", "--batch-size", "80"), "24 pairs, enough for 0 batches of 80"),
        (
            ("run.toml", "--model.text.vocab-size", "90"),
            "the model's vocabulary must be that of OpenAI's tokenizer, 49408 ids; got 90",
        ),
        (
            ("run.toml", "--optimizer.learning-rate", "1e30", "--checkpoints.every-steps", "1"),
            ". --resume goes on from run/check",
        ),
    ],
)
def test_errors_are_one_line(arguments: tuple[str, ...], message: str):
    done = command("train", *arguments)
    assert done.exit_code == 1
    assert message in done.output
    assert "Traceback" not in done.output
    assert isinstance(done.exception, SystemExit)


def test_only_the_first_process_speaks(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("RANK", "1")
    done = command("train")
    assert (done.exit_code, done.output) == (1, "")


def test_torchrun(folder: Path):
    launcher = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node=2"]
    done = subprocess.run(
        [*launcher, "-m", "clipfast", "train", "run.toml"],
        env={**os.environ, "OMP_NUM_THREADS": "1", "GLOO_SOCKET_IFNAME": "lo"},
        capture_output=True, text=True, timeout=120, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert done.stdout.count("model: run/model.pt") == done.stdout.count("6 steps, ") == 1
    assert (folder / "run" / "log.jsonl").read_text().count('"processes": 2') == 1
