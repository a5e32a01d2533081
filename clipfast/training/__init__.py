"""Training beyond one batch that fits: gradient caching (docs/guides/gradient_caching.md)."""

from clipfast.training.cached import CachedStep, StepResult
from clipfast.training.memory import PeakMemory

__all__ = ["CachedStep", "PeakMemory", "StepResult"]
