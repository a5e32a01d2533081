"""The launch that the row-wise kernels share: four rows a program, in steps of up to 1024 columns."""

from __future__ import annotations

import triton
from torch import Tensor

ROWS = 4  # of one program


def row_blocks(x: Tensor) -> tuple[tuple[int], dict[str, int]]:
    """The grid over ``x`` (R, D), and the kernel's block sizes."""
    return (triton.cdiv(x.shape[0], ROWS),), {"B": ROWS, "BK": min(1024, triton.next_power_of_2(x.shape[1]))}
