"""Importing ``clipfast.training`` for ``CachedStep`` loads nothing of the training command."""

from __future__ import annotations

import subprocess
import sys

import clipfast.training

HEAVY = ("settings", "step", "checkpointing", "records", "run")


def test_gradient_caching_comes_alone():
    assert clipfast.training.__all__ == ["CachedStep", "PeakMemory", "StepResult"]
    code = "import sys, clipfast.training; print(*[m for m in sys.modules if m.startswith('clipfast.training.')])"
    loaded = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout.split()
    assert loaded
    assert not [module for module in loaded if module.split(".")[2] in HEAVY]
