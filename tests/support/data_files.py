"""Pictures and tables for the tests. Every picture has a number, encoded in its colour."""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Iterable, Sequence
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor

from clipfast.images.preprocess import Preprocess

Image = pytest.importorskip("PIL.Image", reason="needs pillow")
PLAIN = Preprocess(8, (0.0, 0.0, 0.0), (1.0, 1.0, 1.0))


def picture(number: int, width: int = 12, height: int = 9):
    """A picture of one colour, so that its crops show its number too."""
    return Image.fromarray(np.full((height, width, 3), (number % 256, number // 256, 77), np.uint8))


def noise(number: int, width: int = 12, height: int = 9):
    """A picture of noise, no two crops of which are alike."""
    return Image.fromarray(np.random.default_rng(number).integers(0, 256, (height, width, 3), dtype=np.uint8))


def encoded(image, kind: str = "png") -> bytes:
    file = io.BytesIO()
    image.save(file, kind)
    return file.getvalue()


def write_csv(path: Path, rows: Iterable[Sequence[str]], header: Sequence[str] = ("image", "caption")) -> Path:
    with path.open("w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file, delimiter="\t" if path.suffix == ".tsv" else ",")
        writer.writerow(header)
        writer.writerows(rows)
    return path


def write_jsonl(path: Path, rows: Iterable[object]) -> Path:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return path


def numbered_table(folder: Path, count: int, draw=picture) -> Path:
    """``count`` pictures, and a table in which the caption of each is its number."""
    for i in range(count):
        draw(i).save(folder / f"{i}.png")
    return write_csv(folder / "pairs.csv", [(f"{i}.png", str(i)) for i in range(count)])


def digits(captions: list[str]) -> Tensor:
    """A tokenizer: one id, the number at the end of the caption."""
    return torch.tensor([[int(caption.split()[-1])] for caption in captions])


def numbers(batch) -> list[int]:
    """The numbers at the ends of a batch's captions."""
    return batch.tokens[:, 0].tolist()


def shown(batch) -> list[int]:
    """The numbers of a batch's pictures."""
    colours = (batch.images[:, :2, 0, 0] * 255).round().int()
    return (colours[:, 0] + 256 * colours[:, 1]).tolist()


def same(left, right) -> bool:
    return torch.equal(left.images, right.images) and torch.equal(left.tokens, right.tokens) and left.skipped == right.skipped
