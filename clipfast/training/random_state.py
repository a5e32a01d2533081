"""The random numbers to come, as plain values for a checkpoint: torch's, NumPy's and Python's."""

from __future__ import annotations

import random
from typing import Any

import numpy as np
import torch


def random_state() -> dict[str, Any]:
    """Of the global generators in this process, the current CUDA device's among them."""
    name, keys, position, has_gauss, gauss = tuple[Any, ...](np.random.get_state(legacy=True))
    return {
        "torch": torch.get_rng_state(),
        "cuda": torch.cuda.get_rng_state() if torch.cuda.is_initialized() else None,
        "numpy": (name, keys.tolist(), position, has_gauss, gauss),
        "python": random.getstate(),
    }


def set_random_state(state: dict[str, Any]) -> None:
    """Continue where ``random_state`` was called, in this or another process."""
    torch.set_rng_state(state["torch"])
    if state["cuda"] is not None and torch.cuda.is_available():
        torch.cuda.set_rng_state(state["cuda"])
    np.random.set_state(state["numpy"])
    random.setstate(state["python"])


def continue_random(states: list[dict[str, Any]], rank: int, seed: int) -> None:
    """Where process ``rank`` was in a checkpoint; without one, or with fewer processes in it, at a start of its own."""
    if rank < len(states):
        set_random_state(states[rank])
    else:
        seed_all(seed + rank)


def seed_all(seed: int) -> None:
    """Start all of them anew."""
    torch.manual_seed(seed)
    np.random.seed(seed % 2**32)
    random.seed(seed)
