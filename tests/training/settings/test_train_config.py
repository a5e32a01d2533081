"""The configuration of a training run: values, flags, and errors that name the key."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from tiny_run import TEXT, VISION

from clipfast.models import ResNetConfig, TextConfig, VisionConfig, model_config
from clipfast.training.settings.parse import ConfigError
from clipfast.training.settings.toml_and_flags import configured, merged, read_flags
from clipfast.training.settings.train_config import TrainConfig

LEAST = {"output": "out", "batch_size": 4, "model": {"name": "ViT-B-32"}, "data": {"source": "pairs.csv"}}
FILE = """
output = "out"
batch_size = 4
[model]
name = "ViT-B-32"
[data]
source = "pairs.csv"
[optimizer]
learning_rate = 1
betas = [0.9, 0.95]
"""


def read(**changes: Any) -> TrainConfig:
    values = merged(LEAST, changes)
    values["model"] = {key: value for key, value in values["model"].items() if value is not None}  # TOML has no null
    return TrainConfig.from_values(values)


def test_a_file_and_flags_that_replace_its_values(tmp_path: Path):
    path = tmp_path / "run.toml"
    path.write_text(FILE)
    config = configured(
        [str(path), "--batch-size", "8", "--optimizer.betas=[0.8, 0.9]", "--log.tensorboard", "--output", "7",
         "--model.loss", "sigmoid", "--data.templates", '["a {}"]'],
    )  # fmt: skip
    assert config.optimizer.learning_rate == 1.0
    assert type(config.optimizer.learning_rate) is float
    assert config.optimizer.betas == (0.8, 0.9)
    assert (config.batch_size, config.output, config.log.tensorboard) == (8, "7", True)
    assert config.model.shape.loss == "sigmoid"
    assert config.data.templates == ("a {}",)


def test_the_defaults_are_the_papers():
    config = read()
    assert (config.epochs, config.optimizer.learning_rate, config.optimizer.weight_decay) == (32, 5e-4, 0.2)
    assert config.model.shape == model_config("ViT-B-32")


def test_a_described_model():
    described = {"name": None, "embed_dim": 6, "vision": VISION, "text": TEXT}
    shape = read(model=described).model.shape
    assert shape.vision == VisionConfig(**VISION)
    assert shape.text == TextConfig(**TEXT)
    resnet = {"image_size": 32, "layers": [1, 1, 1, 1], "width": 8, "heads": 4}
    assert isinstance(read(model={**described, "vision": resnet}).model.shape.vision, ResNetConfig)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"batchsize": 4}, r"^unknown configuration key batchsize \(did you mean batch_size\?\); accepted there: output"),
        ({"optimizer": {"lr": 1.0}}, r"^unknown configuration key optimizer\.lr.*accepted there: learning_rate, "),
        ({"model": {"vision": {"patches": 3}, "name": None}}, r"^unknown configuration key model\.vision\.patches\b"),
        ({"epochs": "many"}, r"^epochs must be a whole number; got 'many' \(text\)"),
        ({"epochs": True}, r"^epochs must be a whole number; got True \(true or false\)"),
        ({"epochs": 1.5}, r"^epochs must be a whole number; got 1.5 \(a number\)"),
        ({"seed": [1]}, r"^seed must be a whole number; got \[1\] \(a list\)"),
        ({"output": 3}, r"^output must be text; got 3 \(a whole number\)"),
        ({"log": {"tensorboard": 1}}, r"^log\.tensorboard must be true or false; got 1"),
        ({"precision": "int8"}, r"^precision must be one of 'float32', 'bfloat16', 'float16', 'float64'; got 'int8'"),
        ({"optimizer": 3}, r"^optimizer must be a table with keys of its own; got 3"),
        ({"optimizer": {"betas": [0.9]}}, r"^optimizer\.betas must be a list of 2; got \[0.9\]"),
        ({"optimizer": {"betas": [0.9, "b"]}}, r"^optimizer\.betas\[1\] must be a number; got 'b'"),
        ({"optimizer": {"betas": [0.9, 1.0]}}, r"^optimizer: betas .* below 1; got \[0.9, 1.0\]"),
        ({"optimizer": {"learning_rate": 0.0}}, r"^optimizer: learning_rate must be a number above 0; got 0"),
        ({"optimizer": {"learning_rate": float("nan")}}, r"^optimizer: learning_rate must be a number above 0; got nan"),
        ({"optimizer": {"weight_decay": -0.1}}, r"^optimizer: weight_decay .* at least 0; got -0.1"),
        ({"optimizer": {"final_learning_rate": 1.0}}, r"^optimizer: final_learning_rate .*; got 1"),
        ({"batch_size": 0}, r"batch_size must be a whole number of at least 1; got 0"),
        ({"chunk_size": 0}, r"chunk_size must be a whole number of at least 1; got 0"),
        ({"seed": -1}, r"seed must be a whole number of at least 0; got -1"),
        ({"output": ""}, r"output must be the folder of the run; got an empty text"),
        ({"average_decay": 1.0}, r"average_decay must be above 0 and below 1.*; got 1.0"),
        ({"checkpoints": {"keep": 0}}, r"^checkpoints: keep must be a whole number of at least 1; got 0"),
        ({"evaluation": {"zero_shot": {}}}, r"^evaluation\.zero_shot\.source must be given"),
        ({"evaluation": {"retrieval": {"source": "a.csv", "samples": 5}}}, r"^evaluation: retrieval\.samples must be left out"),
        ({"data": {"workers": -1}}, r"^data: workers .*; got -1"),
        ({"model": {"name": "ViT-B32"}}, r"^model: name must be one of .*; got 'ViT-B32'; the closest names are ViT-B/32"),
        ({"model": {"embed_dim": 3}}, r"^model: name must stand alone, .*; got embed_dim too"),
        ({"model": {"name": None, "embed_dim": 3}}, r"^model: a model must have a name.*; got embed_dim"),
        ({"model": {"name": None, "vision": {**VISION, "heads": 3}}}, r"^model\.vision: .*heads must divide the width"),
    ],
)  # fmt: skip
def test_what_cannot_be_used_is_named(changes: dict[str, Any], message: str):
    with pytest.raises(ConfigError, match=message):
        read(**changes)


def test_what_is_missing_is_listed():
    with pytest.raises(ConfigError, match=r"^output, data, batch_size must be given"):
        TrainConfig.from_values({"model": {"name": "ViT-tiny"}})


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["run.toml"], r"file run\.toml cannot be read: No such file"),
        (["broken.toml"], r"broken\.toml is not a TOML file: .*line 1"),
        (["--epochs", "2", "3"], "must be given as --key value or --table.key value; got '3'"),
        (["--epochs", "few"], r"^epochs must be a whole number; got 'few'|must be given"),
        (
            ["--optimizer", "3", "--optimizer.eps", "1"],
            r"--optimizer\.eps must be the only flag that sets optimizer; got another",
        ),
    ],
)
def test_errors_of_files_and_flags(arguments: list[str], message: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.chdir(tmp_path)
    Path("broken.toml").write_text("batch_size = \n")
    with pytest.raises(ConfigError, match=message):
        configured(arguments)


def test_flags_are_nested_tables():
    flags = read_flags(["--a.b-c", "-1", "--d", "--e=x=y"])
    assert flags == {"a": {"b_c": "-1"}, "d": "true", "e": "x=y"}
