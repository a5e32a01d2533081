"""Block sizes per architecture, and which features TMA can load.

The table holds starting points that come from the hardware's limits, not from measurements; ``tune.py`` times an entry's
blocks on the machine at hand when it is asked to.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache

import torch
from torch import Tensor


@dataclass(frozen=True)
class Block:
    """A program's block of the tile, the width of one step of its product, and how the compiler lays it out."""

    rows: int
    cols: int
    width: int  # in bytes, so that one entry serves every dtype
    stages: int
    warps: int
    group: int = 8  # blocks of rows that share the columns in L2

    def depth(self, itemsize: int) -> int:
        return self.width // itemsize


SAFE = Block(64, 64, 64, stages=3, warps=4)

TABLE = {
    # 96 KiB of shared memory each: two programs of 8 warps fit on a multiprocessor, and one multiplies while the other takes
    # exponentials.
    9: (
        Block(128, 128, 128, stages=3, warps=8),
        Block(128, 256, 128, stages=3, warps=8),
        Block(128, 128, 128, stages=4, warps=4),
        Block(128, 256, 128, stages=4, warps=8),
        Block(64, 256, 128, stages=3, warps=4),
    ),
    # The first is the largest block whose epilogue stays in the registers (Triton 3.7); larger ones spill.
    10: (
        Block(128, 64, 128, stages=3, warps=8),
        Block(128, 64, 128, stages=4, warps=4),
        Block(128, 128, 128, stages=3, warps=8),
        Block(128, 256, 128, stages=3, warps=8),
    ),
    # The first takes 64 KiB: also within the 99 KiB of sm_86 and sm_89.
    8: (
        Block(128, 128, 64, stages=4, warps=8),
        Block(128, 128, 64, stages=3, warps=4),
        Block(128, 256, 64, stages=3, warps=8),
        Block(64, 128, 64, stages=4, warps=4),
    ),
}
"""By major compute capability: the block that is used unless others were measured, then those that ``tune.py`` also times."""


@cache
def capability(device: torch.device) -> tuple[int, int]:
    """Compute capability; (0, 0) for what has none: AMD's, and the CPU under Triton's interpreter."""
    if device.type != "cuda" or torch.version.hip is not None:
        return 0, 0
    return torch.cuda.get_device_capability(device)


def precision_of(features: Tensor) -> str:
    """How a float32 product is taken: TF32 where torch's own setting allows it for matrix products, else IEEE."""
    if features.dtype != torch.float32 or features.device.type != "cuda":
        return "ieee"
    return "tf32" if torch.backends.cuda.matmul.allow_tf32 else "ieee"


def candidates(major: int, dtype: torch.dtype, precision: str) -> tuple[Block, ...]:
    """The table's entry. IEEE float32 has no tensor core: large blocks would only spill its registers."""
    if dtype == torch.float32 and precision == "ieee":
        return (SAFE,)
    return TABLE.get(major, (SAFE,))


def candidates_for(features: Tensor) -> tuple[Block, ...]:
    """The table's entry for features of this dtype on this device."""
    return candidates(capability(features.device)[0], features.dtype, precision_of(features))


def tma_loads(x: Tensor) -> bool:
    """Whether TMA can load ``x``: Hopper or newer, rows that start at multiples of 16 bytes, and no gaps within them."""
    step, major = x.stride(0) * x.element_size(), capability(x.device)[0]
    return major >= 9 and x.stride(1) == 1 and x.data_ptr() % 16 == 0 and step % 16 == 0 and step > 0
