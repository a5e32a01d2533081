"""The configuration of a training run, table by table as in a TOML file; defaults as in the CLIP paper (table 18)."""

from __future__ import annotations

import math
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Literal

from clipfast.data.data_config import DataConfig
from clipfast.models import BagOfWordsConfig, ClipConfig, ResNetConfig, TextConfig, VisionConfig, model_config
from clipfast.training.settings.parse import Values, parse


@dataclass(frozen=True)
class ModelConfig:
    """The model: a ``name`` (see ``clipfast.models.list_models()``), or a description by ``embed_dim`` and the tables
    ``vision`` and ``text`` (the fields of ``VisionConfig`` or ``ResNetConfig``, ``TextConfig`` or ``BagOfWordsConfig``).

    ``loss``: by default the model's own. ``weights``: a checkpoint to start from. ``sentencepiece``: the tokenizer's file,
    for a vocabulary that is not OpenAI's. ``lock_image_tower``: train the text tower alone (LiT). ``gradient_checkpointing``:
    keep only the input of each block for the backward pass. ``compile``: run the towers through torch.compile.
    """

    name: str | None = None
    embed_dim: int | None = None
    vision: VisionConfig | ResNetConfig | None = None
    text: TextConfig | BagOfWordsConfig | None = None
    loss: Literal["softmax", "sigmoid"] | None = None
    weights: str | None = None
    sentencepiece: str | None = None
    lock_image_tower: bool = False
    gradient_checkpointing: bool = False
    compile: bool = False

    def __post_init__(self) -> None:
        described = [key for key in ("embed_dim", "vision", "text") if getattr(self, key) is not None]
        if self.name is not None and described:
            raise ValueError(
                f"name must stand alone, since it gives the whole model; got {', '.join(described)} too; leave one out"
            )
        if self.name is None and len(described) < 3:
            raise ValueError(
                'a model must have a name, such as "ViT-B-32", or embed_dim and the tables vision and text; got '
                f"{', '.join(described) or 'none of them'}"
            )
        _ = self.shape  # raises for an unknown name, and for towers that do not fit each other

    @property
    def shape(self) -> ClipConfig:
        """What ``create_model`` takes."""
        if self.name is not None:
            shape = model_config(self.name)
        else:
            assert self.embed_dim is not None
            assert self.vision is not None
            assert self.text is not None
            shape = ClipConfig(self.embed_dim, self.vision, self.text)
        return shape if self.loss is None else replace(shape, loss=self.loss)


@dataclass(frozen=True)
class OptimizerConfig:
    """AdamW under a cosine schedule, from ``learning_rate`` after ``warmup_steps`` steps down to ``final_learning_rate``.

    ``warmup_steps``: by default 2000, or a tenth of a run of less than 20,000 steps. ``betas`` and ``eps``: by default
    (0.9, 0.98) and 1e-6 for vision transformers, (0.9, 0.999) and 1e-8 for ResNets. ``max_gradient_norm``: where to clip the
    norm of all parameters' gradients together.
    """

    learning_rate: float = 5e-4
    final_learning_rate: float = 0.0
    warmup_steps: int | None = None
    weight_decay: float = 0.2
    betas: tuple[float, float] | None = None
    eps: float | None = None
    max_gradient_norm: float | None = None

    def __post_init__(self) -> None:
        for name in ("learning_rate", "eps", "max_gradient_norm"):
            value = getattr(self, name)
            if value is not None and not 0 < value < math.inf:
                raise ValueError(f"{name} must be a number above 0; got {value}")
        for name, value in (("weight_decay", self.weight_decay), ("warmup_steps", self.warmup_steps or 0)):
            if not 0 <= value < math.inf:
                raise ValueError(f"{name} must be a number of at least 0; got {value}")
        if not 0 <= self.final_learning_rate <= self.learning_rate:
            raise ValueError(f"final_learning_rate must be between 0 and learning_rate; got {self.final_learning_rate}")
        if self.betas is not None and not all(0 <= beta < 1 for beta in self.betas):
            raise ValueError(f"betas must be two numbers of at least 0 and below 1; got {list(self.betas)}")


@dataclass(frozen=True)
class EvaluationConfig:
    """``zero_shot``: pictures with classes, as folders or in a table. ``retrieval``: pairs that training does not see.

    Both are measured after every epoch, or every ``every_steps`` steps, and at the end.
    """

    zero_shot: DataConfig | None = None
    retrieval: DataConfig | None = None
    every_steps: int | None = None
    batch_size: int = 256

    def __post_init__(self) -> None:
        _at_least_one(self, "every_steps", "batch_size")
        for key, source in (("zero_shot", self.zero_shot), ("retrieval", self.retrieval)):
            for name in ("samples", "distinct"):
                if (value := getattr(source, name, None)) is not None:
                    raise ValueError(
                        f"{key}.{name} must be left out, since an evaluation reads every picture once; got {value!r}"
                    )


@dataclass(frozen=True)
class CheckpointConfig:
    """A checkpoint every ``every_steps`` steps and at the end; the newest ``keep`` of them are kept."""

    every_steps: int = 1000
    keep: int = 3

    def __post_init__(self) -> None:
        _at_least_one(self, "every_steps", "keep")


@dataclass(frozen=True)
class LogConfig:
    """A line in ``log.jsonl`` every ``every_steps`` steps; with ``tensorboard`` TensorBoard gets the same numbers."""

    every_steps: int = 10
    tensorboard: bool = False

    def __post_init__(self) -> None:
        _at_least_one(self, "every_steps")


@dataclass(frozen=True)
class TrainConfig:
    """A whole run. ``output`` is its folder; ``batch_size`` counts the pairs of a step in all processes together.

    ``chunk_size``: how many pairs the towers see at once (gradient caching), if less than a process's share of the batch.
    ``precision``: "bfloat16" and "float16" mean autocast, the others the dtype of everything. ``average_decay``: keep an
    exponential average of the weights, which is then evaluated and written as the result. ``device``: by default a GPU if
    there is one.
    """

    output: str
    model: ModelConfig
    data: DataConfig
    batch_size: int
    chunk_size: int | None = None
    epochs: int = 32
    seed: int = 0
    precision: Literal["float32", "bfloat16", "float16", "float64"] = "float32"
    average_decay: float | None = None
    device: str | None = None
    optimizer: OptimizerConfig = field(default_factory=OptimizerConfig)
    evaluation: EvaluationConfig = field(default_factory=EvaluationConfig)
    checkpoints: CheckpointConfig = field(default_factory=CheckpointConfig)
    log: LogConfig = field(default_factory=LogConfig)

    def __post_init__(self) -> None:
        _at_least_one(self, "batch_size", "chunk_size", "epochs")
        if self.seed < 0:
            raise ValueError(f"seed must be a whole number of at least 0; got {self.seed}")
        if not self.output:
            raise ValueError("output must be the folder of the run; got an empty text")
        if self.average_decay is not None and not 0 < self.average_decay < 1:
            raise ValueError(f"average_decay must be above 0 and below 1, such as 0.9999; got {self.average_decay}")

    @property
    def folder(self) -> Path:
        return Path(self.output)

    @classmethod
    def from_values(cls, values: Values) -> TrainConfig:
        """From plain values, as a TOML file has them; ConfigError names the key that cannot be used."""
        return parse(cls, values)


def _at_least_one(config: Any, *names: str) -> None:
    for name in names:
        value = getattr(config, name)
        if value is not None and value < 1:
            raise ValueError(f"{name} must be a whole number of at least 1; got {value}")
