"""What the demo shows: zero-shot accuracy, the training's curve, and a page of predictions."""

from __future__ import annotations

import textwrap
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
import torch.nn.functional as F
from torch import Tensor

from clipfast.demo.captions import Vocabulary, caption
from clipfast.demo.extras import require
from clipfast.demo.icons import HELD_OUT, Icons, pixels
from clipfast.files import write_atomically
from clipfast.models import CLIP

if TYPE_CHECKING:
    from clipfast.demo.train import History

COLUMNS, RANDOM_ROWS, MISTAKE_ROWS = 10, 5, 1
RIGHT, WRONG = "#1a7f37", "#cf222e"


@dataclass(frozen=True)
class ZeroShot:
    """``top1`` and ``top5``: shares of the pictures whose name is the best, or among the best five, of all names.
    ``predicted`` (names,) holds the index of each picture's best name."""

    top1: float
    top5: float
    predicted: Tensor


@torch.no_grad()
def zero_shot(model: CLIP, icons: Icons, vocabulary: Vocabulary, style: str = HELD_OUT) -> ZeroShot:
    """Name every picture of ``style`` by the nearest of the captions "a {style} icon of {name}" over all names."""
    texts = F.normalize(model.encode_text(vocabulary.encode(caption(name, style) for name in icons.names)), dim=-1)
    images = F.normalize(model.encode_image(pixels(icons.images[style])), dim=-1)
    best = (images @ texts.T).topk(min(5, len(texts)), dim=1).indices
    hits = best == torch.arange(len(images)).unsqueeze(1)
    return ZeroShot(hits[:, 0].float().mean().item(), hits.any(dim=1).float().mean().item(), best[:, 0])


def _figure(width: float, height: float) -> Any:
    """A figure without pyplot, whose global state and window toolkits a command has no use for."""
    return require("matplotlib.figure").Figure(figsize=(width, height), dpi=120, layout="constrained")


def draw_curve(path: Path, history: History, names: int) -> None:
    """The loss of every step, its running mean, and the held-out style's accuracy over the steps."""
    figure = _figure(9, 3.6)
    left, right = figure.subplots(1, 2)
    steps = range(1, len(history.losses) + 1)
    left.plot(steps, history.losses, color="#9ecae1", linewidth=0.8, label="each step")
    left.plot(steps, _running_mean(history.losses), color="#08519c", label="running mean")
    left.set(xlabel="step", ylabel="contrastive loss (nats)", title="Training")
    at, results = zip(*history.evaluations, strict=True)
    right.plot(at, [100 * r.top5 for r in results], marker="o", color="#74c476", label="top-5")
    right.plot(at, [100 * r.top1 for r in results], marker="o", color="#006d2c", label="top-1")
    right.axhline(100 / names, color="grey", linestyle=":", label="chance, top-1")
    right.set(xlabel="step", ylabel="accuracy (%)", ylim=(0, 101), title=f"Zero-shot: unseen style, {names} names")
    for axes in (left, right):
        axes.legend()
        axes.grid(alpha=0.3)
    write_atomically(path, lambda file: figure.savefig(file, format="png"))


def _running_mean(values: list[float], keep: float = 0.95) -> list[float]:
    mean, weight, means = 0.0, 0.0, []
    for value in values:
        mean, weight = keep * mean + (1 - keep) * value, keep * weight + (1 - keep)
        means.append(mean / weight)
    return means


def draw_predictions(path: Path, icons: Icons, result: ZeroShot, seed: int = 0) -> None:
    """Random icons of the held-out style with the names that the model gives them, and then some of its mistakes."""
    order = torch.randperm(len(icons.names), generator=torch.Generator().manual_seed(seed)).tolist()
    wrong = [i for i in order if result.predicted[i] != i]
    groups = [(order[: RANDOM_ROWS * COLUMNS], "at random")]
    if wrong:
        groups.append((wrong[: MISTAKE_ROWS * COLUMNS], f"mistakes ({len(wrong)} of {len(order)} in all)"))
    heights = [-(-len(chosen) // COLUMNS) for chosen, _ in groups]
    figure = _figure(1.25 * COLUMNS, 1.4 * sum(heights) + 0.5 * len(groups))
    parts = figure.subfigures(len(groups), 1, height_ratios=heights, squeeze=False)[:, 0]
    for part, (chosen, title), rows in zip(parts, groups, heights, strict=True):
        part.suptitle(f"{HELD_OUT} icons, {title}")
        cells = part.subplots(rows, COLUMNS, squeeze=False).flat
        for cell in cells:
            cell.axis("off")
        for cell, i in zip(part.axes, chosen, strict=False):
            _draw_icon(cell, icons, i, int(result.predicted[i]))
    write_atomically(path, lambda file: figure.savefig(file, format="png"))


def _draw_icon(cell: Any, icons: Icons, true: int, predicted: int) -> None:
    cell.imshow(1 - icons.images[HELD_OUT][true].numpy(), cmap="gray", vmin=0, vmax=1)
    named = _wrapped(icons.names[predicted])
    label = named if predicted == true else f"{named}\n(is {_wrapped(icons.names[true])})"
    cell.set_title(label, fontsize=7, color=RIGHT if predicted == true else WRONG)


def _wrapped(name: str, width: int = 16) -> str:
    return textwrap.fill(name, width)
