"""Load the compiled extensions, each once and when it is first asked for, and remember why when one cannot be."""

from __future__ import annotations

from functools import cache
from pathlib import Path

import torch

INSTRUCTION_SETS = ("portable", "avx2", "avx512")
NOT_BUILT = {
    "cpu": "it was not built (reinstall with a C++ compiler, torch installed first, and --no-build-isolation)",
    "cuda": "it was not built (reinstall with nvcc, torch installed first, and --no-build-isolation; "
    "CLIPFAST_BUILD_CUDA=1 shows what is in the way)",
}


@cache
def load_error(extension: str = "cpu", folder: Path = Path(__file__).parent) -> str | None:
    """None when the extension ("cpu" or "cuda") is loaded, else the reason in words. Loading needs no GPU and no driver."""
    found = sorted(folder.glob(f"_{extension}*.so")) + sorted(folder.glob(f"_{extension}*.pyd"))
    if not found:
        return NOT_BUILT[extension]
    try:
        torch.ops.load_library(found[0])
    except (OSError, RuntimeError) as error:
        return f"{found[0].name} does not load: {error}"
    return None


def instruction_set(select: str | None = None) -> str:
    """The instruction set of the CPU loops in use; ``select`` changes it (the best one at or below, for tests)."""
    level = 0 if select is None else 1 + INSTRUCTION_SETS.index(select)
    return INSTRUCTION_SETS[torch.ops.clipfast_cpu.instruction_set(level) - 1]
