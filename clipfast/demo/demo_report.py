"""The pictures that the demo leaves: the training's curve, and a page of predictions."""

from __future__ import annotations

import textwrap
from pathlib import Path
from typing import Any

import torch

from clipfast.bench.bench_report import new_figure
from clipfast.common.files import write_atomically
from clipfast.demo.icons import HELD_OUT, Icons
from clipfast.training.records.run_log import read_log

COLUMNS, RANDOM_ROWS, MISTAKE_ROWS = 10, 5, 1
RIGHT, WRONG = "#1a7f37", "#cf222e"


def _figure(width: float, height: float) -> Any:
    return new_figure(width, height, "the demo", "demo", dpi=120, layout="constrained")


def draw_curve(path: Path, log: Path, names: int) -> None:
    """The loss, and the accuracy on the held-out style, from the training's log."""
    events = read_log(log)
    steps, losses = zip(*((e["step"], e["loss"]) for e in events if e["event"] == "step"), strict=True)
    metrics = [event for event in events if event["event"] == "evaluation"]
    figure = _figure(9, 3.6)
    left, right = figure.subplots(1, 2)
    left.plot(steps, losses, color="#08519c", label="the last step of each epoch")
    left.set(xlabel="step", ylabel="contrastive loss (nats)", title="Training")
    for name, colour in (("top5", "#74c476"), ("top1", "#006d2c")):
        shares = [100 * event[f"zero_shot/{name}"] for event in metrics]
        right.plot([event["step"] for event in metrics], shares, marker="o", color=colour, label=f"top-{name[3:]}")
    right.axhline(100 / names, color="grey", linestyle=":", label="chance, top-1")
    right.set(xlabel="step", ylabel="accuracy (%)", ylim=(0, 101), title=f"Zero-shot: unseen style, {names} names")
    for axes in (left, right):
        axes.legend()
        axes.grid(alpha=0.3)
    write_atomically(path, lambda file: figure.savefig(file, format="png"))


def draw_predictions(path: Path, icons: Icons, predicted: list[str], seed: int = 0) -> None:
    """Random icons of the held-out style with the names that the model gave them, and below them some of its mistakes."""
    order = torch.randperm(len(icons.names), generator=torch.Generator().manual_seed(seed)).tolist()
    wrong = [i for i in order if predicted[i] != icons.names[i]]
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
            _draw_icon(cell, icons, i, predicted[i])
    write_atomically(path, lambda file: figure.savefig(file, format="png"))


def _draw_icon(cell: Any, icons: Icons, number: int, predicted: str) -> None:
    cell.imshow(255 - icons.images[HELD_OUT][number], cmap="gray", vmin=0, vmax=255)
    true = icons.names[number]
    label = _wrapped(predicted) if predicted == true else f"{_wrapped(predicted)}\n(is {_wrapped(true)})"
    cell.set_title(label, fontsize=7, color=RIGHT if predicted == true else WRONG)


def _wrapped(name: str, width: int = 16) -> str:
    return textwrap.fill(name, width)
