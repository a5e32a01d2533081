"""Whole runs: against a loop written by hand with the dense loss, in every precision, to files that others read."""

from __future__ import annotations

import math
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from train_cases import EXACT, config, letters, same_bits, steps, weights, write_pairs

import clipfast
from clipfast.data import open_pairs
from clipfast.hub.pretrained import preprocess_of
from clipfast.models import CLIP, create_model
from clipfast.training import CachedStep
from clipfast.training import run as run_module
from clipfast.training.config import TrainConfig
from clipfast.training.diagnosis import NotFiniteError
from clipfast.training.engine import Summary, train
from clipfast.training.evaluate import evaluate
from clipfast.training.log import read_log
from clipfast.training.processes import World
from clipfast.training.run import prepare
from clipfast.training.sources import ConfigError
from clipfast.training.step import WholeStep

ALONE = World(0, 1, torch.device("cpu"))

pytestmark = pytest.mark.usefixtures("one_thread")


@pytest.fixture(autouse=True)
def pairs(tmp_path: Path) -> Path:
    return write_pairs(tmp_path)


def run(folder: Path, **changes: Any) -> Summary:
    return train(config(folder, **changes), tokenizer=letters)


def dense_loss(model: CLIP, images: Tensor, tokens: Tensor) -> Tensor:
    """The definitions of CLIP's loss and SigLIP's over a matrix of logits."""
    a = F.normalize(model.encode_image(images), dim=1)
    b = F.normalize(model.encode_text(tokens), dim=1)
    logits = model.logit_scale.exp() * a @ b.T
    if model.logit_bias is None:
        labels = torch.arange(len(logits))
        return (F.cross_entropy(logits, labels) + F.cross_entropy(logits.T, labels)) / 2
    signs = 2 * torch.eye(len(logits), dtype=logits.dtype) - 1
    return -F.logsigmoid(signs * (logits + model.logit_bias)).sum() / len(logits)


def by_hand(setting: TrainConfig) -> tuple[dict[str, Tensor], list[float]]:
    """What ``train`` should do, in one function: the result's weights, and the loss of each step."""
    torch.manual_seed(setting.seed)
    model = create_model(setting.model.shape).double()
    data = open_pairs(setting.data, preprocess_of(model.config), letters, batch_size=setting.batch_size, seed=setting.seed)
    gains = {p for name, p in model.named_parameters() if p.ndim < 2}
    groups = [{"params": [p for p in model.parameters() if p not in gains], "weight_decay": 0.2},
              {"params": list(gains), "weight_decay": 0.0}]  # fmt: skip
    optimizer = torch.optim.AdamW(groups, lr=1.0, betas=(0.9, 0.98), eps=1e-6, foreach=False)
    total, warmup, peak = setting.epochs * data.steps, 2, setting.optimizer.learning_rate
    losses, average = [], {}
    for epoch in range(setting.epochs):
        for batch in data.epoch(epoch):
            done = len(losses)
            cosine = (1 + math.cos(math.pi * (done - warmup) / (total - warmup))) / 2
            for group in optimizer.param_groups:
                group["lr"] = peak * (done + 1) / warmup if done < warmup else peak * cosine
            loss = dense_loss(model, batch.images.double(), batch.tokens)
            optimizer.zero_grad()
            loss.backward()
            torch.nn.utils.clip_grad_norm_(model.parameters(), 0.5)
            optimizer.step()
            with torch.no_grad():
                model.logit_scale.clamp_(0, math.log(100))
                for name, value in model.state_dict().items():
                    average[name] = 0.9 * average[name] + 0.1 * value if name in average else value.clone()
            losses.append(loss.item())
    return average, losses


@pytest.mark.parametrize("loss", ["softmax", "sigmoid"])
@pytest.mark.parametrize("chunk_size", [None, 3])
def test_a_run_is_the_loop_that_one_would_write(tmp_path: Path, loss: str, chunk_size: int | None):
    changes = {**EXACT, "model": {"loss": loss}, **({} if chunk_size is None else {"chunk_size": chunk_size})}
    want, losses = by_hand(config(tmp_path, **changes))
    summary = run(tmp_path, **changes)
    assert summary.result is not None
    got = weights(summary.result)
    assert got.keys() == want.keys()
    for name, value in want.items():
        torch.testing.assert_close(got[name], value, rtol=1e-9, atol=1e-11, msg=lambda text, name=name: f"{name}: {text}")
    logged = steps(tmp_path / "run")
    assert [line["step"] for line in logged] == list(range(1, 10))
    assert [line["loss"] for line in logged] == pytest.approx(losses, rel=1e-9)
    assert logged[2]["epoch"] == 1.0
    assert summary.progress.step == 9
    assert summary.interrupted is None


@pytest.mark.parametrize(("precision", "chunk_size"), [("bfloat16", 8), ("float16", 8), ("float16", 3)])
def test_half_precision_follows_float32(tmp_path: Path, precision: str, chunk_size: int, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(torch.amp, "GradScaler", partial(torch.amp.GradScaler, init_scale=128.0))
    changes: dict[str, Any] = {"optimizer": {"learning_rate": 1e-3}}
    want = steps_of(tmp_path, "wide", **changes)
    got = steps_of(tmp_path, precision, precision=precision, chunk_size=chunk_size, **changes)
    assert [line["loss"] for line in got] == pytest.approx([line["loss"] for line in want], rel=0.05)
    assert [line["loss"] for line in got] != [line["loss"] for line in want]
    assert got[-1]["overflows"] == 0
    assert {value.dtype for value in weights(tmp_path / precision / "model.pt").values()} == {torch.float32}


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
@pytest.mark.parametrize("precision", ["float32", "bfloat16"])
def test_a_gpu_follows_the_cpu(tmp_path: Path, precision: str):
    changes: dict[str, Any] = {"optimizer": {"learning_rate": 1e-3}}
    want = steps_of(tmp_path, "cpu", device="cpu", **changes)
    got = steps_of(tmp_path, "gpu", device="cuda", precision=precision, chunk_size=3, **changes)
    assert [line["loss"] for line in got] == pytest.approx([line["loss"] for line in want], rel=0.05)
    assert clipfast.load(tmp_path / "gpu" / "model.pt", device="cuda")[0].logit_scale.is_cuda


def test_float16_finds_the_scale_that_it_can_bear(tmp_path: Path):
    lines = steps_of(tmp_path, "run", precision="float16")
    assert 0 < lines[-1]["overflows"] < 5
    assert lines[-1]["loss"] < lines[0]["loss"] - 0.5


def steps_of(folder: Path, name: str, **changes: Any) -> list[dict[str, Any]]:
    run(folder, output=str(folder / name), **changes)
    return steps(folder / name)


def test_the_same_seed_gives_the_same_bits(tmp_path: Path):
    for name, seed in (("a", 1), ("b", 1), ("c", 2)):
        run(tmp_path, output=str(tmp_path / name), seed=seed)
    a, b, c = (weights(tmp_path / name / "model.pt") for name in "abc")
    assert same_bits(a, b)
    assert not same_bits(a, c)


def test_compiling_and_checkpointing_change_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    compiled = []

    def compile_towers(self: nn.Module) -> None:
        compiled.append(self)

    monkeypatch.setattr("clipfast.training.step.Towers.compile", compile_towers)
    run(tmp_path, **EXACT)
    run(tmp_path, output=str(tmp_path / "other"), **EXACT, model={"compile": True, "gradient_checkpointing": True})
    assert len(compiled) == 1
    want = weights(tmp_path / "run" / "model.pt")
    for name, value in weights(tmp_path / "other" / "model.pt").items():
        torch.testing.assert_close(value, want[name], rtol=1e-9, atol=1e-11)


def test_a_locked_image_tower_stays(tmp_path: Path):
    torch.manual_seed(0)
    start = create_model(config(tmp_path).model.shape).state_dict()
    run(tmp_path, model={"lock_image_tower": True})
    for name, value in weights(tmp_path / "run" / "model.pt").items():
        assert torch.equal(value, start[name]) == name.startswith("visual."), name


def test_the_result_is_read_by_load_and_by_open_clips_names(tmp_path: Path):
    """Heads are 4 wide and the activation is not OpenAI's: what no tensor tells comes from the file's configuration."""
    summary = run(tmp_path, model={"vision": {"activation": "gelu"}})
    for file in (summary.result, summary.checkpoint):
        assert file is not None
        model, preprocess = clipfast.load(file, device="cpu")
        assert model.config == config(tmp_path, model={"vision": {"activation": "gelu"}}).model.shape
        assert preprocess == preprocess_of(model.config)
        assert same_bits(model.state_dict(), weights(tmp_path / "run" / "model.pt"))
    sigmoid = run(tmp_path, output=str(tmp_path / "sigmoid"), model={"loss": "sigmoid"})
    assert sigmoid.result is not None
    assert clipfast.load(sigmoid.result, device="cpu")[0].logit_bias is not None
    started = run(
        tmp_path, output=str(tmp_path / "further"), model={"weights": str(sigmoid.result), "loss": "sigmoid"}, epochs=1
    )
    assert started.progress.loss < sigmoid.progress.loss + 0.5


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

    monkeypatch.setattr("clipfast.training.evaluate.retrieval_metrics", measure)
    held_out = {"retrieval": {"source": str(tmp_path / "pairs.csv")}}
    state = prepare(config(tmp_path), ALONE, letters)[1]
    before = torch.get_rng_state()
    assert evaluate(state, config(tmp_path, evaluation=held_out).evaluation, letters).keys() == {"retrieval/drawn"}
    assert torch.equal(torch.get_rng_state(), before)


@pytest.mark.parametrize(("chunk_size", "kind"), [(None, WholeStep), (7, CachedStep), (8, WholeStep), (100, WholeStep)])
def test_gradients_are_cached_where_a_chunk_is_less_than_the_batch(tmp_path: Path, chunk_size: int | None, kind: type):
    changes = {} if chunk_size is None else {"chunk_size": chunk_size}
    assert type(prepare(config(tmp_path, **changes), ALONE, letters)[0].step) is kind


def test_pairs_that_cannot_be_read_are_counted_and_named(tmp_path: Path):
    (tmp_path / "5.png").write_bytes(b"no picture")
    summary = run(tmp_path, epochs=2, log={"every_steps": 100})  # what happened since the last line is told before a checkpoint
    assert summary.progress.skipped == 2
    assert list(summary.progress.named) == [f"{tmp_path}/pairs.csv:7"]
    log = read_log(tmp_path / "run" / "log.jsonl")
    assert [line["where"] for line in log if line["event"] == "skipped"] == [f"{tmp_path}/pairs.csv:7"] * 2
    assert "5.png" in next(line["why"] for line in log if line["event"] == "skipped")
    assert log[-1]["skipped"] == 2


def test_a_loss_that_is_none_stops_with_a_diagnosis(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    original = run_module.train_step

    def spoiling(run, state, batch):
        if state.progress.step == 4:
            state.model.text_projection.data[0, 0] = math.nan
        return original(run, state, batch)

    monkeypatch.setattr("clipfast.training.engine.train_step", spoiling)
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
    monkeypatch.setattr("clipfast.training.update.get_total_norm", lambda gradients: torch.tensor(math.inf))
    with pytest.raises(NotFiniteError, match=r"stopped at step 1, .*: the norm of the gradient is inf \(the loss is "):
        run(tmp_path)
    with pytest.raises(NotFiniteError, match=r"stopped at step 20, .* is inf in 20 steps in a row \(the loss is "):
        run(tmp_path, output=str(tmp_path / "half"), precision="float16", epochs=8)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"optimizer": {"warmup_steps": 9}}, "warmup_steps is 9, but the whole run has 9 steps"),
        ({"batch_size": 25}, "24 pairs, enough for 0 batches of 25"),
        ({"data": {"source": "nowhere.csv"}}, r"^data: there is no file or folder nowhere\.csv"),
        (
            {"evaluation": {"retrieval": {"source": "nowhere.csv"}}},
            r"^evaluation\.retrieval: there is no file or folder nowhere",
        ),
        ({"output": __file__}, r"^output: there can be no folder .*: File exists"),
        ({"device": "nowhere"}, "device 'nowhere' cannot be used"),
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
