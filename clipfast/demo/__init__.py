"""A CLIP trained on one CPU core in about a minute: named icons, tested zero-shot on a style that the training never saw."""

from clipfast.demo.checkpoint import TrainedDemo, load_demo
from clipfast.demo.run import DemoResult, run

__all__ = ["DemoResult", "TrainedDemo", "load_demo", "run"]
