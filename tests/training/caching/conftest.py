"""Small towers for every test."""

from __future__ import annotations

import pytest
import torch
from cached_cases import Pair


@pytest.fixture
def model() -> Pair:
    torch.manual_seed(0)
    return Pair()
