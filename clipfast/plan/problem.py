"""The step that is planned: which loss, how many pairs, on how many ranks."""

from __future__ import annotations

from dataclasses import dataclass

import torch

from clipfast.common.dtypes import compute_dtype
from clipfast.common.limits import limits
from clipfast.losses.declaration import LOSSES, Loss, named
from clipfast.sweep.schedule import Budget, Extent, Schedule

DTYPES = ("float32", "bfloat16", "float16", "float64")
GRADIENTS = ("both", "rows", "columns", "none")
DEVICES = ("cuda", "cpu")


@dataclass(frozen=True)
class Problem:
    """One step of ``loss`` over ``batch`` pairs of features ``dim`` wide, dealt out evenly to ``ranks`` processes.

    ``gradients``: of which features (rows: images, queries; columns: texts, keys). Every loss averages. The temperature's
    or scale's gradient comes with either. ``workspace_bytes`` is the losses' argument.
    """

    loss: str
    batch: int
    dim: int
    dtype: str = "bfloat16"
    ranks: int = 1
    gradients: str = "both"
    device: str = "cuda"
    normalize: bool = True
    workspace_bytes: int | None = None

    def __post_init__(self) -> None:
        accepted = {"loss": tuple(LOSSES), "dtype": DTYPES, "gradients": GRADIENTS, "device": DEVICES}
        for field, values in accepted.items():
            if getattr(self, field) not in values:
                raise ValueError(f"{field} must be one of {', '.join(values)}; got {getattr(self, field)!r}")
        for field in ("batch", "dim", "ranks"):
            if getattr(self, field) < 1:
                raise ValueError(f"{field} must be a whole number above 0; got {getattr(self, field)}")
        if self.ranks > self.batch:
            raise ValueError(f"batch must be at least one pair for each rank; got {self.batch} pairs for {self.ranks} ranks")
        if self.symmetric and self.gradients in ("rows", "columns"):
            raise ValueError(f"gradients must be both or none, as this loss's two sides are one matrix; got {self.gradients!r}")
        self.budget  # noqa: B018  a workspace too small for the width is an error now, not after the counting

    @property
    def declared(self) -> Loss:
        return named(self.loss)

    @property
    def symmetric(self) -> bool:
        return self.declared.symmetric

    @property
    def triangle(self) -> bool:
        """Whether one triangle of the tiles stands for both. A rank of several meets each pair once, as a row of its own."""
        return self.symmetric and self.ranks == 1

    @property
    def two_passes(self) -> bool:
        return self.declared.family.two_passes

    @property
    def two_directions(self) -> bool:
        """Whether the columns have a softmax of their own."""
        return self.declared.family.both

    @property
    def trains(self) -> bool:
        return self.gradients != "none"

    @property
    def wants_rows(self) -> bool:
        return self.gradients in ("both", "rows")

    @property
    def wants_columns(self) -> bool:
        return self.gradients in ("both", "columns")

    @property
    def views(self) -> int:
        """Rows of a sample in the matrix of logits."""
        return self.declared.views

    @property
    def pairs_of_ranks(self) -> tuple[int, ...]:
        """Pairs on each rank: the first ranks take what does not divide."""
        share, rest = divmod(self.batch, self.ranks)
        return (share + 1,) * rest + (share,) * (self.ranks - rest)

    @property
    def rows_of_ranks(self) -> tuple[int, ...]:
        """Rows of the matrix of logits on each rank; there are as many columns."""
        return tuple(self.views * pairs for pairs in self.pairs_of_ranks)

    @property
    def given_bytes(self) -> int:
        """Of one number of the features as the caller holds them."""
        return int(getattr(torch, self.dtype).itemsize)

    @property
    def wide_bytes(self) -> int:
        """Of one number of an accumulator."""
        return int(compute_dtype(getattr(torch, self.dtype)).itemsize)

    @property
    def swept_bytes(self) -> int:
        """Of one number of the features as the tiles read them and the ranks send them: widened on the CPU."""
        return self.given_bytes if self.device == "cuda" else self.wide_bytes

    @property
    def budget(self) -> Budget:
        return Budget(self.workspace_bytes, self.swept_bytes, self.dim, self.device)

    @property
    def one_tile(self) -> bool:
        """Whether one process takes the whole matrix as a single tile."""
        return self.ranks == 1 and (self.views * self.batch) ** 2 <= limits().single_logits

    def schedule(self, rows: int, blocks: tuple[int, ...]) -> Schedule:
        """Of a sweep of ``rows`` against the columns in ``blocks``, as the loss makes it."""
        extent = Extent(rows, blocks, self.symmetric, self.ranks == 1)
        if not self.two_passes:
            return Schedule.of(extent, self.budget)
        return Schedule.for_mean(extent, self.budget, one_sided=not self.two_directions, second_pass=self.trains)
