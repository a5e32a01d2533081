"""The step that is planned: which loss, how many pairs, on how many ranks."""

from __future__ import annotations

from dataclasses import dataclass

import torch

from clipfast.common.argument_checks import check_choice, check_whole_number
from clipfast.common.dtypes import HALF, compute_dtype, name_of
from clipfast.common.limits import limits
from clipfast.losses.declaration import Loss, named
from clipfast.sweep.schedule import Budget, Extent, Schedule

DTYPES = tuple(map(name_of, (torch.float32, *HALF, torch.float64)))
GRADIENTS = ("both", "rows", "columns", "none")
DEVICES = ("cuda", "cpu")


@dataclass(frozen=True)
class Problem:
    """One step of ``loss`` over ``batch`` pairs of features ``dim`` wide, dealt out evenly to ``ranks`` processes.

    ``gradients``: which features want one (rows: images, queries; columns: texts, keys); the gradient of a temperature or
    scale comes with either. The reduction is the mean. ``workspace_bytes`` is the losses' argument.
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
        named(self.loss)  # raises for an unknown one
        for name, accepted in (("dtype", DTYPES), ("gradients", GRADIENTS), ("device", DEVICES)):
            check_choice(name, getattr(self, name), accepted)
        for name in ("batch", "dim", "ranks"):
            check_whole_number(name, getattr(self, name), 1)
        if self.ranks > self.batch:
            raise ValueError(f"batch must be at least one pair for each rank; got {self.batch} pairs for {self.ranks} ranks")
        if self.symmetric and self.gradients in ("rows", "columns"):
            raise ValueError(
                f"gradients must be 'both' or 'none' for {self.loss}; got {self.gradients!r}; its two sides are one matrix"
            )
        self.budget  # noqa: B018  raises for a workspace too small for the width

    @property
    def declared(self) -> Loss:
        return named(self.loss)

    @property
    def symmetric(self) -> bool:
        """Whether rows and columns are one matrix."""
        return self.declared.symmetric

    @property
    def two_passes(self) -> bool:
        return self.declared.family.two_passes

    @property
    def two_directions(self) -> bool:
        """Whether the columns have softmaxes of their own."""
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
        """Rows of a pair in the matrix of logits."""
        return self.declared.views

    @property
    def rows(self) -> int:
        """Rows of the whole matrix of logits, which has as many columns."""
        return self.views * self.batch

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
        """Bytes of one number of the features as the caller holds them."""
        return int(getattr(torch, self.dtype).itemsize)

    @property
    def wide_bytes(self) -> int:
        """Bytes of one number of an accumulator."""
        return int(compute_dtype(getattr(torch, self.dtype)).itemsize)

    @property
    def swept_bytes(self) -> int:
        """Bytes of one number of the features as tiles read them and ranks send them: widened on the CPU."""
        return self.given_bytes if self.device == "cuda" else self.wide_bytes

    @property
    def budget(self) -> Budget:
        return Budget(self.workspace_bytes, self.swept_bytes, self.dim, self.device)

    @property
    def one_tile(self) -> bool:
        """Whether one process takes the whole matrix as a single tile."""
        return self.ranks == 1 and self.rows**2 <= limits().single_logits

    def schedule(self, rows: int, blocks: tuple[int, ...]) -> Schedule:
        """The schedule by which the loss sweeps ``rows`` against the columns in ``blocks``."""
        extent = Extent(rows, blocks, self.symmetric, self.ranks == 1)
        return self.declared.family.schedule(extent, self.budget, self.trains)
