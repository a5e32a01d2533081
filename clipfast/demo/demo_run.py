"""The whole demo in one function: write icons as files, train on three of their styles, test on the fourth."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import torch

from clipfast.common.argument_checks import check_whole_number
from clipfast.common.extras import require
from clipfast.demo.dataset import caption, picture_path, write_dataset
from clipfast.demo.demo_config import CONFIG, write_config
from clipfast.demo.demo_report import draw_curve, draw_predictions
from clipfast.demo.icons import HELD_OUT, IMAGE_SIZE, TRAINING_STYLES, Icons, icon_folder, load_icons
from clipfast.hub.pretrained import load
from clipfast.inference.classify import classify
from clipfast.inference.zero_shot import ZeroShotClassifier
from clipfast.models import create_model
from clipfast.training.run.engine import Summary, train
from clipfast.training.settings.train_config import TrainConfig

EPOCHS = 50


@dataclass(frozen=True)
class DemoResult:
    """Accuracies in [0, 1] on the held-out style, the seconds that the training took, and the files."""

    top1: float
    top5: float
    seconds: float
    model: Path
    curve: Path
    predictions: Path


def run(output_dir: str | Path, names: int = 500, epochs: int = EPOCHS, seed: int = 0, threads: int = 1) -> DemoResult:
    """Train on ``names`` icons for ``epochs`` epochs of 6 pairs a name, as the training command does, in ``output_dir``.

    The same seed gives the same icons and the same training on the same machine. With two idle cores ``threads=2``
    takes half the time; on a busy machine operations this small would mostly wait for the second thread, so the default
    is 1. What an earlier demo left in ``output_dir`` is replaced. Raises ImportError where the demo's packages are missing,
    and ValueError for fewer than 2 names, more names than there are icons, or less than 1 epoch or thread.
    """
    check_whole_number("epochs", epochs, 1)
    check_whole_number("threads", threads, 1)
    check_installed()
    icons, folder = load_icons(names, seed=seed), Path(output_dir)
    _clear(folder)
    write_dataset(folder, icons)
    config = write_config(folder, names, epochs, seed)
    _introduce(config, names)
    with _threads(threads):
        summary = train(config)
        if summary.result is None:
            raise KeyboardInterrupt  # it came during a step; the training finished the step and returned
        result = _write(folder, icons, summary, summary.result)
    _conclude(result, names)
    return result


def check_installed() -> None:
    """ImportError, before the training rather than after it, where a package of the demo is missing."""
    icon_folder()
    for module, package in (("PIL.ImageFont", "pillow"), ("matplotlib.figure", None), ("ftfy", None), ("regex", None)):
        require(module, "the demo", package, extra="demo")


def _clear(folder: Path) -> None:
    """Remove what an earlier demo trained there. The checkpoints of any other run stay, and the training refuses the folder."""
    if (folder / CONFIG).exists():
        for path in (*folder.glob("checkpoints/step-*.pt"), folder / "log.jsonl"):
            path.unlink(missing_ok=True)


@contextmanager
def _threads(count: int) -> Iterator[None]:
    """Run torch's operations on ``count`` threads while the context is open."""
    before = torch.get_num_threads()
    torch.set_num_threads(count)
    try:
        yield
    finally:
        torch.set_num_threads(before)


def _write(folder: Path, icons: Icons, summary: Summary, weights: Path) -> DemoResult:
    """Classify the held-out icons with the trained model, and draw both pictures."""
    model, preprocess = load(weights)
    classifier = ZeroShotClassifier(model, icons.names, caption("{}", HELD_OUT))
    pictures = [folder / picture_path(name, HELD_OUT) for name in icons.names]
    found = classify(pictures, classifier, preprocess, batch_size=256)
    curve, predictions = folder / "curve.png", folder / "predictions.png"
    draw_curve(curve, folder / "log.jsonl", len(icons.names))
    draw_predictions(predictions, icons, [result.best[0][0] for result in found])
    top1, top5 = (summary.progress.metrics[f"zero_shot/{name}"] for name in ("top1", "top5"))
    return DemoResult(top1, top5, summary.seconds, weights, curve, predictions)


def _introduce(config: TrainConfig, count: int) -> None:
    model = create_model(config.model.shape, device="meta")
    parameters = sum(p.numel() for p in model.parameters()) / 1e6
    words = model.token_embedding.weight.numel() / 1e6
    styles = ", ".join(TRAINING_STYLES)
    print(f"Training: {count} named icons in {len(TRAINING_STYLES)} styles ({styles}), {IMAGE_SIZE}x{IMAGE_SIZE} pixels.")
    print(f'Test: the same names in the style "{HELD_OUT}", which the training never sees, neither picture nor word.')
    print(f"Model: a CLIP of {parameters:.2f} million parameters from scratch, {words:.2f} of them for OpenAI's vocabulary.")
    print(f"The same by hand: python -m clipfast train {config.folder / CONFIG} --output another/folder")


def _conclude(result: DemoResult, count: int) -> None:
    print(f"Trained in {result.seconds:.0f} s.")
    print(f"Zero-shot on {count} unseen {HELD_OUT} icons: top-1 {result.top1:.1%}, top-5 {result.top5:.1%}", end=" ")
    print(f"(chance {1 / count:.1%} and {min(5, count) / count:.1%}).")
    for what, path in (("model", result.model), ("training curve", result.curve), ("predictions", result.predictions)):
        print(f"Wrote the {what}: {path}")
