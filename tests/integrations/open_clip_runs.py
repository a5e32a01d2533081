"""Runs of open_clip's trainer on a few pictures with a model of two layers."""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import ModuleType

import numpy as np
import torch
from PIL import Image
from torch import Tensor
from torch.nn.modules.module import register_module_forward_hook

CONFIG = {
    "embed_dim": 16,
    "vision_cfg": {"image_size": 32, "layers": 1, "width": 64, "patch_size": 16},
    "text_cfg": {"context_length": 12, "vocab_size": 49408, "width": 32, "heads": 2, "layers": 1},
}
NAME = "clipfast-tiny"


def write_pairs(folder: Path, pairs: int) -> None:
    """Pictures of noise with captions, for ``--dataset-type csv``, and the configuration of the model."""
    random = np.random.default_rng(0)
    lines = ["filepath\ttitle"]
    for i in range(pairs):
        Image.fromarray(random.integers(0, 256, (32, 32, 3), dtype=np.uint8)).save(folder / f"{i}.png")
        lines.append(f"{folder / f'{i}.png'}\tthing number {i * i}")
    (folder / "pairs.csv").write_text("\n".join(lines) + "\n")
    (folder / f"{NAME}.json").write_text(json.dumps(CONFIG))


def arguments(folder: Path, name: str, *flags: str) -> list[str]:
    """The trainer's command line. AdamW's eps is large, as a small one turns rounding into steps where gradients are small."""
    data = ["--dataset-type", "csv", "--train-data", str(folder / "pairs.csv"), "--workers", "0"]
    steps = ["--epochs", "1", "--batch-size", "6", "--lr", "1e-2", "--warmup", "0", "--eps", "1e-2"]
    output = ["--logs", str(folder / "logs"), "--name", name]
    return ["--model", NAME, "--device", "cpu", "--precision", "fp32", *data, *steps, *output, *flags]


def quiet(trainer: ModuleType, folder: Path) -> None:
    """Register the model, and keep the trainer from setting up logging for the whole process."""
    import open_clip

    open_clip.add_model_config(folder / f"{NAME}.json")
    trainer.setup_logging = lambda *_: None


def trained(folder: Path, name: str) -> tuple[dict[str, Tensor], Tensor]:
    """The parameters after the last step, and AdamW's mean gradients as one vector."""
    checkpoint = torch.load(folder / "logs" / name / "checkpoints" / "epoch_1.pt", weights_only=True)
    means = [state["exp_avg"].flatten() for _, state in sorted(checkpoint["optimizer"]["state"].items())]
    return checkpoint["state_dict"], torch.cat(means)


@contextmanager
def losses() -> Iterator[list[tuple[type, float]]]:
    """The class and value of every contrastive loss that is computed."""
    seen: list[tuple[type, float]] = []

    def record(module, _, output) -> None:
        if type(module).__name__ in {"ClipLoss", "SigLipLoss"}:
            seen.append((type(module), output["contrastive_loss"].item()))

    with register_module_forward_hook(record):
        yield seen
