"""The whole demo in one function: draw the icons, train, test on the style that was held out, and write the files."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path

import torch

from clipfast.demo.captions import Vocabulary, caption
from clipfast.demo.checkpoint import save_demo
from clipfast.demo.extras import check_installed
from clipfast.demo.icons import FOLDERS, HELD_OUT, TRAINING_STYLES, Icons, load_icons
from clipfast.demo.progress import progress
from clipfast.demo.report import ZeroShot, draw_curve, draw_predictions, zero_shot
from clipfast.demo.train import History, Pairs, Recipe, build_model, train
from clipfast.models import CLIP

IMAGE_SIZE = 24


@dataclass(frozen=True)
class DemoResult:
    """Accuracies in [0, 1] on the held-out style, the seconds that the training took, and the files."""

    top1: float
    top5: float
    seconds: float
    checkpoint: Path
    curve: Path
    predictions: Path


def run(output_dir: str | Path, names: int = 500, steps: int = Recipe.steps, seed: int = 0, threads: int = 1) -> DemoResult:
    """Train on ``names`` icons for ``steps`` steps and write three files to ``output_dir``.

    The same seed gives the same icons and the same training on the same machine. With two idle cores ``threads=2``
    takes half the time; on a busy machine operations this small would mostly wait for the second thread, hence 1.
    Raises ImportError where the demo's packages are missing, ValueError for fewer than 2 names, more than there are,
    or no steps.
    """
    if steps < 1:
        raise ValueError(f"the demo needs at least 1 step, but got {steps}")
    if threads < 1:
        raise ValueError(f"the demo needs at least 1 thread, but got {threads}")
    check_installed()
    icons = load_icons(names, IMAGE_SIZE, seed)
    vocabulary = Vocabulary.of(caption(name, style) for name in icons.names for style in (*FOLDERS, None))
    model = build_model(IMAGE_SIZE, vocabulary, seed)
    _introduce(icons, vocabulary, model)
    began = time.perf_counter()
    with _threads(threads):
        history = _train(model, icons, vocabulary, replace(Recipe(), steps=steps), seed)
    seconds = time.perf_counter() - began
    result = history.evaluations[-1][1]
    files = _write(Path(output_dir), model, vocabulary, icons, history, result)
    _conclude(result, len(icons.names), seconds, files)
    return DemoResult(result.top1, result.top5, seconds, *files)


@contextmanager
def _threads(count: int) -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(count)
    try:
        yield
    finally:
        torch.set_num_threads(before)


def _train(model: CLIP, icons: Icons, vocabulary: Vocabulary, recipe: Recipe, seed: int) -> History:
    pairs = Pairs(icons, vocabulary, recipe, seed)
    with progress(recipe.steps) as after_step:
        return train(model, pairs, recipe, lambda: zero_shot(model, icons, vocabulary), after_step)


def _write(
    folder: Path, model: CLIP, vocabulary: Vocabulary, icons: Icons, history: History, result: ZeroShot
) -> tuple[Path, Path, Path]:
    checkpoint, curve, predictions = (folder / name for name in ("checkpoint.pt", "curve.png", "predictions.png"))
    save_demo(checkpoint, model, vocabulary, icons.names)
    draw_curve(curve, history, len(icons.names))
    draw_predictions(predictions, icons, result)
    return checkpoint, curve, predictions


def _introduce(icons: Icons, vocabulary: Vocabulary, model: CLIP) -> None:
    count, size = len(icons.names), IMAGE_SIZE
    parameters = sum(p.numel() for p in model.parameters()) / 1e6
    styles = ", ".join(TRAINING_STYLES)
    print(f"Training: {count} named icons in {len(TRAINING_STYLES)} styles ({styles}), {size}x{size} pixels.")
    print(f'Test: the same names in the style "{HELD_OUT}", which the training never sees, neither picture nor word.')
    print(f"Model: a CLIP of {parameters:.2f} million parameters from scratch, {len(vocabulary)} tokens, on the CPU.")


def _conclude(result: ZeroShot, count: int, seconds: float, files: tuple[Path, Path, Path]) -> None:
    print(f"Trained in {seconds:.0f} s.")
    print(f"Zero-shot on {count} unseen {HELD_OUT} icons: top-1 {result.top1:.1%}, top-5 {result.top5:.1%}", end=" ")
    print(f"(chance {1 / count:.1%} and {min(5, count) / count:.1%}).")
    for what, path in zip(("model", "training curve", "predictions"), files, strict=True):
        print(f"Wrote the {what}: {path}")
