"""A training run that takes a moment: coloured pictures with captions, a tokenizer of letters, a few thousand weights."""

from __future__ import annotations

import csv
import random
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from clipfast.training.processes.world import World
from clipfast.training.records.run_log import read_log
from clipfast.training.run.engine import Summary, train
from clipfast.training.settings.toml_and_flags import merged
from clipfast.training.settings.train_config import TrainConfig

COLOURS = {"red": (220, 30, 30), "green": (30, 200, 40), "blue": (40, 60, 230), "white": (240, 240, 240)}
LENGTH, LETTERS = 8, "abcdefghijklmnopqrstuvwxyz "
END = len(LETTERS) + 1
VISION = {"image_size": 8, "patch_size": 4, "width": 8, "layers": 1, "heads": 2}
EXACT = {"precision": "float64", "average_decay": 0.9, "optimizer": {"max_gradient_norm": 0.5}}
ALONE = World(0, 1, torch.device("cpu"))
TEXT = {"context_length": LENGTH, "vocab_size": END + 1, "width": 8, "layers": 1, "heads": 2}


def letters(texts: list[str]) -> Tensor:
    """Ids (n, LENGTH): 0 pads, and the highest id ends a text, as in OpenAI's vocabulary."""
    rows = [[LETTERS.index(letter) + 1 for letter in text[: LENGTH - 1]] + [END] for text in texts]
    return torch.tensor([row + [0] * (LENGTH - len(row)) for row in rows])


def write_pairs(folder: Path, count: int = 24, seed: int = 0) -> Path:
    """A table of ``count`` pictures, each a colour with noise, and their captions."""
    from PIL import Image

    draw = random.Random(seed)
    rows = []
    for i in range(count):
        name, colour = list(COLOURS.items())[i % len(COLOURS)]
        picture = Image.new("RGB", (12, 9))
        picture.putdata([tuple(max(0, min(255, c + draw.randint(-40, 40))) for c in colour) for _ in range(12 * 9)])
        picture.save(folder / f"{i}.png")
        rows.append((f"{i}.png", f"{name} {LETTERS[i % 26]}{LETTERS[i // 26]}"))
    table = folder / "pairs.csv"
    with table.open("w", newline="") as file:
        csv.writer(file).writerows([("image", "caption"), *rows])
    return table


def config(folder: Path, **changes: Any) -> TrainConfig:
    """Three epochs of three steps over ``folder/pairs.csv``, with ``changes`` of single values."""
    values = {
        "output": str(folder / "run"),
        "batch_size": 8,
        "epochs": 3,
        "model": {"embed_dim": 6, "vision": VISION, "text": TEXT},
        "data": {"source": str(folder / "pairs.csv"), "workers": 0},
        "optimizer": {"learning_rate": 1e-2, "warmup_steps": 2},
        "log": {"every_steps": 1},
        "checkpoints": {"every_steps": 2},
    }
    return TrainConfig.from_values(merged(values, changes))


def run(folder: Path, **changes: Any) -> Summary:
    return train(config(folder, **changes), tokenizer=letters)


def weights(path: Path) -> dict[str, Tensor]:
    return torch.load(path, weights_only=True)["state_dict"]


def same_bits(got: dict[str, Tensor], want: dict[str, Tensor]) -> bool:
    return got.keys() == want.keys() and all(torch.equal(got[name], want[name]) for name in want)


def steps(run: Path) -> list[dict[str, Any]]:
    """What the log says of each step, without what depends on the machine."""
    machine = ("pairs_per_second", "memory_bytes")
    lines = [line for line in read_log(run / "log.jsonl") if line["event"] == "step"]
    return [{key: value for key, value in line.items() if key not in machine} for line in lines]
