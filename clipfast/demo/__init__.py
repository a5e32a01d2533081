"""A CLIP trained on one CPU core in about a minute: named icons, tested zero-shot on a style that the training never saw."""

from clipfast.demo.demo_run import DemoResult, run

__all__ = ["DemoResult", "run"]
