"""What the operators of a loss are made from, and what they are given: one record each, of which the schemas are written."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache
from typing import NamedTuple, Protocol, get_type_hints

from torch import Tensor

from clipfast.sweep.gradient_sums import Wanted
from clipfast.sweep.schedule import Budget, Extent, Schedule


class Inputs(NamedTuple):
    """The tensors of a call; the first four may ask for gradients.

    ``rows`` (M, D) and ``cols`` (N, D) of one dtype; no ``cols``: the rows with themselves. ``scale`` and ``bias`` are 0-d;
    softmax losses have no bias. ``targets`` (M,) int64: each row's column, -100 for none; None: row i belongs to column i.
    """

    rows: Tensor
    cols: Tensor | None
    scale: Tensor
    bias: Tensor | None
    targets: Tensor | None

    @property
    def columns(self) -> Tensor:
        return self.rows if self.cols is None else self.cols

    @property
    def differentiable(self) -> tuple[Tensor | None, ...]:
        return self[:4]


class Options(NamedTuple):
    """The rest of a call. ``maxima``: whether the largest negatives are wanted, for statistics.

    ``wants``: whether gradients of rows, columns, scale and bias are wanted. ``group`` is a process group's name, "" for this
    process alone, and ``strategy`` how columns travel in it. With a group, rows, columns and losses are this rank's, and
    gradients are those of the sum of all ranks' losses.
    """

    normalize: bool
    maxima: bool
    wants: list[bool]
    workspace_bytes: int | None
    backend: str
    group: str
    strategy: str

    @property
    def wanted(self) -> Wanted:
        return Wanted(*self.wants)


class Saved(NamedTuple):
    """What the forward operator leaves for the one of the gradients.

    ``losses`` (L,); ``state`` (3, L) float64: normalisers, positives, largest negatives; ``shift_log2`` (0-d); ``kept``: the
    exponentials that have a slot. Sigmoid losses leave ``state`` and ``kept`` empty and ``shift_log2`` 0. ``sizes``: all ranks'
    rows and columns, so that the backward call need not ask for them again. ``layout`` (3,): ``Schedule.layout``, by which it
    finds the tiles again.
    """

    losses: Tensor
    state: Tensor
    shift_log2: Tensor
    kept: Tensor
    sizes: Tensor
    layout: Tensor


class MeanResults(NamedTuple):
    """The mean loss (0-d), the wanted gradients of the first four inputs (empty if unwanted), and ``Saved.state``."""

    loss: Tensor
    by_rows: Tensor
    by_cols: Tensor
    by_scale: Tensor
    by_bias: Tensor
    state: Tensor


class Family(Protocol):
    """What the three operators of a loss compute; ``name`` is the loss's.

    ``both``: columns have lines beside the rows. ``two_passes``: the weights are known only when all exponentials have been
    summed. ``one_tile``: whether csrc/cpu/single.cpp has the family's mean.
    """

    @property
    def both(self) -> bool: ...

    @property
    def two_passes(self) -> bool: ...

    @property
    def one_tile(self) -> bool: ...

    def check(self, inputs: Inputs) -> None:
        """ValueError for inputs that no loss of the family has."""

    def mean(self, name: str, inputs: Inputs, options: Options) -> MeanResults:
        """The mean loss and, in the same call, the wanted gradients in the compute dtype."""

    def schedule(self, extent: Extent, budget: Budget, backward: bool) -> Schedule:
        """How a mean's matrix is cut and visited; ``backward``: gradients are wanted too. ``clipfast.plan`` counts it."""

    def losses(self, name: str, inputs: Inputs, options: Options) -> Saved:
        """The loss of every line."""

    def gradients(self, upstream: Tensor, inputs: Inputs, saved: Saved, options: Options) -> tuple[Tensor, ...]:
        """Gradients of ``(upstream * losses).sum()``, with ``upstream`` (L,), by the first four inputs."""

    def mean_at_once(self, inputs: Inputs, options: Options) -> bool:
        """Whether a mean is taken by ``mean``, and not by reducing ``losses``."""

    def lines(self, inputs: Inputs) -> int:
        """How many losses a call has."""

    def state(self, inputs: Inputs) -> tuple[int, ...]:
        """The shape of ``Saved.state``."""

    def kept(self, inputs: Inputs, options: Options) -> int:
        """The length of ``Saved.kept`` (symbolic sizes allowed)."""


@dataclass(frozen=True)
class LossOperators:
    """A loss as ``torch.ops.clipfast.NAME_mean``, ``NAME_losses`` and ``NAME_gradients``, which ``register`` makes."""

    name: str
    family: Family


_SCHEMA = {
    Tensor: "Tensor",
    Tensor | None: "Tensor?",
    bool: "bool",
    list[bool]: "bool[]",
    int | None: "int?",
    str: "str",
}


@cache
def schema(*records: type) -> str:
    """The fields of ``records`` as arguments of an operator."""
    fields = [(name, hint) for record in records for name, hint in get_type_hints(record).items()]
    return ", ".join(f"{_SCHEMA[hint]} {name}" for name, hint in fields)


def results(record: type) -> str:
    return f"({', '.join(['Tensor'] * len(record._fields))})"  # type: ignore[attr-defined]
