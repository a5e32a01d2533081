"""Tests that need a GPU: skipped, with the reason, where there is none."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

REASON = None if torch.cuda.is_available() else "torch sees no GPU"
HERE = Path(__file__).parent


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    if REASON:
        for item in items:
            if HERE in item.path.parents:
                item.add_marker(pytest.mark.skip(reason=REASON))
