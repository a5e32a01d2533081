"""Training: gradient caching for any loop, and whole runs.

docs/guides/gradient_caching.md and docs/guides/training_command.md have what users see.

Its rooms, top to bottom; each imports only from the rooms below it:

    run, records, checkpointing, step, caching, settings, processes
"""

from clipfast.training.caching.cached_step import CachedStep, StepResult
from clipfast.training.caching.peak_memory import PeakMemory

__all__ = ["CachedStep", "PeakMemory", "StepResult"]
