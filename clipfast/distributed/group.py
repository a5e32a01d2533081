"""A process group as the exchanges use it: sizes, small reductions, and errors that say what happened."""

from __future__ import annotations

import zlib
from collections.abc import Iterator
from contextlib import contextmanager

import torch
import torch.distributed as dist
from torch import Tensor
from torch.distributed.distributed_c10d import _resolve_process_group

from clipfast.distributed import traffic

COMPARED = 16
DIFFERENT_CALLS = "the loss or its reduction (as checksums)"

# Torch 2.13 gave these two new names, and warns of the old ones.
all_gather = getattr(dist, "all_gather_single", None) or dist.all_gather_into_tensor
reduce_scatter = getattr(dist, "reduce_scatter_single", None) or dist.reduce_scatter_tensor


@contextmanager
def explained(what: str, group: dist.ProcessGroup) -> Iterator[None]:
    """A peer that failed or did not come in time, as an error that names the step and says where to look."""
    try:
        yield
    except RuntimeError as error:
        raise RuntimeError(
            f"clipfast's loss on rank {group.rank()} of {group.size()} could not finish its {what}: another rank failed, left, "
            "or did not call the same loss within the process group's timeout (init_process_group(timeout=...)). The log of "
            f"the rank that failed first has the cause. Here: {error}"
        ) from error


class Members:
    """The ranks of a call, whose ``sizes`` (2, ranks) are each one's rows and columns; base of the exchanges."""

    def __init__(self, group: dist.ProcessGroup, sizes: Tensor) -> None:
        self.group, self.sizes = group, sizes
        self.rank, self.ranks = group.rank(), group.size()
        self.rows, self.cols = (tuple(counts) for counts in sizes.tolist())
        self.extent = max(sum(self.rows), sum(self.cols))

    def start(self, rank: int) -> int:
        """Where the columns of ``rank`` begin among all columns."""
        return sum(self.cols[:rank])

    def total_rows(self) -> int:
        return sum(self.rows)

    def largest(self, value: Tensor) -> Tensor:
        """The largest of the ranks' values; NaN, which reductions treat as they like, counts as infinity."""
        return reduced(self.group, value.nan_to_num(nan=torch.inf, posinf=torch.inf), dist.ReduceOp.MAX)


def reduced(group: dist.ProcessGroup, value: Tensor, operation: dist.ReduceOp.RedOpType = dist.ReduceOp.SUM) -> Tensor:
    """Every rank's ``value``, added up or as ``operation`` says."""
    total = value.clone()
    with explained("reduction", group):
        traffic.note("all_reduce", total)
        dist.all_reduce(total, operation, group=group)
    return total


def named(name: str) -> dist.ProcessGroup:
    """The group that an operator's string argument stands for."""
    return _resolve_process_group(name)  # type: ignore[arg-type]


def compare(group: dist.ProcessGroup, call: str, mine: dict[str, float], device: torch.device) -> Tensor:
    """Each rank's ``rows`` and ``cols`` (2, ranks); ValueError on all ranks if ``call`` or anything else in ``mine`` differs.

    The numbers travel over the group's CPU backend if it has one, so that the host does not wait for an accelerator.
    """
    on = torch.device("cpu") if torch.device("cpu") in group._device_types else device
    numbers = [zlib.crc32(call.encode()), *mine.values()]
    row = torch.zeros(COMPARED, dtype=torch.float64, device=on)  # as long in every call, so that different ones meet
    row[: len(numbers)] = torch.tensor(numbers, dtype=torch.float64)
    everybody = row.new_empty(group.size() * COMPARED)
    with explained("comparison of batches", group):
        traffic.note("all_gather", row)
        all_gather(everybody, row, group=group)
    table = everybody.view(group.size(), COMPARED).cpu()
    names = (DIFFERENT_CALLS, *mine)
    for name, values in zip(names, table.t().tolist(), strict=False):
        texts = [f"{value:.9g}" for value in values]
        if name not in ("rows", "cols") and len(set(texts)) > 1:
            raise ValueError(
                f"the ranks' calls of a clipfast loss differ in {name}: {', '.join(texts)} on ranks 0 to {group.size() - 1}. "
                "All ranks must call the same loss with the same options on one model"
            )
    return table[:, [names.index("rows"), names.index("cols")]].t().long().contiguous()
