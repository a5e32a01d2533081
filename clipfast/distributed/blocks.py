"""In which blocks a rank meets the columns of all ranks: from the ranks' sizes alone, for the exchanges and for the plan."""

from __future__ import annotations

import torch

from clipfast.common.dtypes import compute_dtype
from clipfast.common.limits import limits

EXCHANGES = ("gather", "ring")
"""How columns travel between ranks."""
AUTO = "auto"
STRATEGIES = (AUTO, *EXCHANGES)


def gathered_bytes(columns: tuple[int, ...], width: int, dtype: torch.dtype) -> int:
    """Bytes a gather holds on each rank: all ranks' features, ``width`` wide and padded, and their accumulators."""
    return len(columns) * max(columns) * width * (dtype.itemsize + compute_dtype(dtype).itemsize)


def choose(strategy: str, columns: tuple[int, ...], width: int, dtype: torch.dtype) -> str:
    """The strategy itself or, for "auto", a gather while it is small (``Limits.gathered_bytes``) and else the ring."""
    if strategy != AUTO:
        return strategy
    return "gather" if gathered_bytes(columns, width, dtype) <= limits().gathered_bytes else "ring"


def blocks(strategy: str, columns: tuple[int, ...], rank: int) -> tuple[int, ...]:
    """Columns of each block that ``rank`` is shown, in order.

    Round the ring each rank's come one after another, the rank's own first. Gathered columns are one block where all ranks
    have equally many, and otherwise a block for each rank, in the ranks' order.
    """
    if strategy == "ring":
        return tuple(columns[source] for source in sources(len(columns), rank))
    return (sum(columns),) if len(set(columns)) == 1 else columns


def sources(ranks: int, rank: int) -> list[int]:
    """Whose columns come round the ring to ``rank``, in order."""
    return [(rank - step) % ranks for step in range(ranks)]
