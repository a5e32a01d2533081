"""One loss on a part of the batch in each process, and the same loss on the whole batch in one: what both are asked for."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import Any

import torch
import torch.distributed as dist
from helpers import BIAS, LOSSES, Loss, Result, converged_pairs, error, random_pairs
from torch import Tensor

SIZES = (5, 11, 3, 8)
STRATEGIES = ("ring", "gather")


@dataclass
class Batch:
    """Features of all ranks' pairs (float64), and how many rows and columns each rank has of them."""

    a: Tensor
    b: Tensor
    rows: tuple[int, ...]
    cols: tuple[int, ...]
    targets: tuple[Tensor, ...] | None = None

    @classmethod
    def of(cls, rows: tuple[int, ...], cols: tuple[int, ...] | None = None, d: int = 24, **options: Any) -> Batch:
        a, b = random_pairs(sum(cols or rows), d, m=sum(rows), **options)
        return cls(a, b, rows, cols or rows)

    def part(self, rank: int) -> tuple[Tensor, Tensor]:
        return self.a[self.row_slice(rank)], self.b[self.col_slice(rank)]

    def row_slice(self, rank: int) -> slice:
        return slice(sum(self.rows[:rank]), sum(self.rows[: rank + 1]))

    def col_slice(self, rank: int) -> slice:
        return slice(sum(self.cols[:rank]), sum(self.cols[: rank + 1]))

    def whole_targets(self) -> Tensor | None:
        """Each rank's targets, as columns of the whole batch."""
        if self.targets is None and self.rows == self.cols:
            return None
        own = self.targets or [torch.arange(n) for n in self.rows]
        return torch.cat([torch.where(t < 0, t, t + sum(self.cols[:r])) for r, t in enumerate(own)])


@dataclass
class Call:
    """A loss with its options; ``wants`` are the inputs that require a gradient. Results come back to the CPU."""

    loss: Loss
    scale: float = 10.0
    dtype: torch.dtype = torch.float64
    wants: tuple[str, ...] = ("a", "b", "scale", "bias")
    options: dict[str, Any] = field(default_factory=dict)
    device: str = "cpu"

    def run(self, a: Tensor, b: Tensor, targets: Tensor | None = None, **options: Any) -> Result:
        wide = torch.promote_types(self.dtype, torch.float32)
        given = {"a": (a, self.dtype), "b": (b, self.dtype), "scale": (torch.tensor(self.loss.knob(self.scale)), wide)}
        if self.loss.has_bias:
            given["bias"] = (torch.tensor(BIAS), wide)
        leaves = {k: x.detach().to(self.device, t, copy=True).requires_grad_(k in self.wants) for k, (x, t) in given.items()}
        more = {} if targets is None else {"targets": targets.to(self.device)}
        value = self.loss(*(leaves[k] for k in ("a", "b", "scale")), leaves.get("bias"), **self.options, **more, **options)
        if value.requires_grad:
            value.sum().backward()
        return Result(
            value.detach().double().cpu(), {k: x.grad.double().cpu() for k, x in leaves.items() if x.grad is not None}
        )

    def everywhere(self, batch: Batch, rank: int, group: dist.ProcessGroup, **options: Any) -> Result:
        """This rank's result; its scale and bias gradients are summed over the ranks."""
        targets = None if batch.targets is None else batch.targets[rank]
        got = self.run(*batch.part(rank), targets, group=group, **options)
        for name in ("scale", "bias"):
            if name in got.grads:
                total = got.grads[name].to(self.device)
                dist.all_reduce(total, group=group)
                got.grads[name] = total.cpu()
        return got

    def expected(self, batch: Batch, rank: int, **options: Any) -> Result:
        """What that must be: the dense definition in one process, whose gradients of this rank's part are cut out."""
        dense = replace(self, dtype=torch.float64, device="cpu")
        a, b = (x.to(self.dtype).double() for x in (batch.a, batch.b))
        want = dense.run(a, b, batch.whole_targets(), backend="reference", **options)
        parts = {"a": batch.row_slice(rank), "b": batch.col_slice(rank)}
        grads = {k: g[parts[k]] if k in parts else g for k, g in want.grads.items()}
        value = want.value
        if value.dim():
            value = _rows_of(value, batch, rank)
        return Result(value, grads)


def _rows_of(per_line: Tensor, batch: Batch, rank: int) -> Tensor:
    """This rank's losses of ``reduction="none"``; NT-Xent's are of two views."""
    views = len(per_line) // sum(batch.rows)
    return torch.cat([part[batch.row_slice(rank)] for part in per_line.chunk(views)])


def check(call: Call, batch: Batch, rank: int, group: dist.ProcessGroup, limit: float, reduction: str, **options: Any) -> None:
    """Values are equal, and gradients once they are averaged (or added) over the ranks, to ``limit`` in relative norm."""
    got = call.everywhere(batch, rank, group, reduction=reduction, **options)
    want = call.expected(batch, rank, reduction=reduction)
    averaged = reduction != "none" and options.get("gradient_reduction", "mean") == "mean"
    ranks = group.size() if averaged else 1
    errors = {"value": error(got.value, want.value)}
    assert got.grads.keys() == want.grads.keys()
    errors |= {k: error(g / ranks, want.grads[k]) for k, g in got.grads.items()}
    assert max(errors.values()) <= limit, f"{call}, {reduction}, {options}: {errors}"


__all__ = ["LOSSES", "SIZES", "STRATEGIES", "Batch", "Call", "check", "converged_pairs"]
