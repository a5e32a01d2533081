"""Load the compiled CPU extension, once, and remember why when it cannot be."""

from __future__ import annotations

from functools import cache
from pathlib import Path

import torch

INSTRUCTION_SETS = ("portable", "avx2", "avx512")


@cache
def load_error() -> str | None:
    """None when the extension is loaded, else the reason in words."""
    found = sorted(Path(__file__).parent.glob("_cpu*.so")) + sorted(Path(__file__).parent.glob("_cpu*.pyd"))
    if not found:
        return "it was not built (reinstall with a C++ compiler, torch installed first, and --no-build-isolation)"
    try:
        torch.ops.load_library(found[0])
    except (OSError, RuntimeError) as error:
        return f"{found[0].name} does not load: {error}"
    return None


def instruction_set(select: str | None = None) -> str:
    """The instruction set of the CPU loops in use; ``select`` changes it (the best one at or below, for tests)."""
    level = 0 if select is None else 1 + INSTRUCTION_SETS.index(select)
    return INSTRUCTION_SETS[torch.ops.clipfast_cpu.instruction_set(level) - 1]
