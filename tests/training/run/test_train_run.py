"""Whole runs: against a loop written by hand with the dense loss, in every precision, to files that others read."""

from __future__ import annotations

import math
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from tiny_run import ALONE, EXACT, config, letters, run, same_bits, steps, weights, write_pairs
from torch import Tensor, nn

import clipfast
from clipfast.data import open_pairs
from clipfast.hub.pretrained import preprocess_of
from clipfast.models import CLIP, create_model
from clipfast.training import CachedStep
from clipfast.training.run.preparation import prepare
from clipfast.training.settings.train_config import TrainConfig
from clipfast.training.step.batch_gradients import WholeStep

pytestmark = pytest.mark.usefixtures("one_thread")


@pytest.fixture(autouse=True)
def pairs(tmp_path: Path) -> Path:
    return write_pairs(tmp_path)


def dense_loss(model: CLIP, images: Tensor, tokens: Tensor) -> Tensor:
    """CLIP's loss and SigLIP's, as defined over the matrix of logits."""
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

    monkeypatch.setattr("clipfast.training.step.batch_gradients.BothTowers.compile", compile_towers)
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
    """Heads are 4 wide and the activation is not OpenAI's: no tensor shows either; both come from the file's configuration."""
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


@pytest.mark.parametrize(("chunk_size", "kind"), [(None, WholeStep), (7, CachedStep), (8, WholeStep), (100, WholeStep)])
def test_gradients_are_cached_where_a_chunk_is_less_than_the_batch(tmp_path: Path, chunk_size: int | None, kind: type):
    changes = {} if chunk_size is None else {"chunk_size": chunk_size}
    assert type(prepare(config(tmp_path, **changes), ALONE, letters)[0].step) is kind
