"""What a loss declares about itself, once. Everything else that the project knows of a loss is read from here.

The public function's checks and dispatch, the torch operators, the cases of ``bench``, the choices of the commands, the
entries of ``plan`` and the table of the documentation all come from a ``Loss``.
"""

from __future__ import annotations

import keyword
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, NamedTuple

from torch import Tensor

from clipfast.common.argument_checks import check_choice
from clipfast.losses.options import Checked, plain
from clipfast.operators.record import Family, LossOperators
from clipfast.operators.registration import register


class VectorBytes(NamedTuple):
    """Bytes of the vectors (norms, sums, losses, weights) of one pair, counted from the allocations of a step.

    ``closing``: how many more there are, with gradients and without, at the moment when the losses are put together. They
    raise the peak where products are added up in place; elsewhere the products' temporaries, freed before, took more.
    """

    with_gradients: int
    without: int
    closing: tuple[int, int] = (0, 0)


@dataclass(frozen=True)
class Loss:
    """One loss of the catalogue. ``a``, ``b``: the features of both sides as a caller has them, (N, D) each.

    ``name``: of the operators and choices; the public function is ``NAME_loss``. ``summary``: one line for tables.
    ``sides``: the names of the two feature arguments. ``family``: what a line is made of, and in how many directions.
    ``dense(z, targets)``: the definition, each line's loss from the matrix of logits (M, N); rows' first, then columns'.
    ``textbook(a, b, scale)``: the expression that users write, with the mean; ``bench`` compares with it.
    ``fused(a, b, scale, **options)``: the same by the public function. ``views``: rows of the matrix for one pair; with two,
    both sides' features are rows and columns of one symmetric matrix. ``defaults``: options that differ from the common ones.
    """

    name: str
    summary: str
    sides: tuple[str, str]
    family: Family
    dense: Callable[[Tensor, Tensor | None], Tensor]
    textbook: Callable[[Tensor, Tensor, Tensor], Tensor]
    fused: Callable[..., Tensor]
    vector_bytes: VectorBytes
    views: int = 1
    defaults: Mapping[str, Any] = field(default_factory=dict)

    @property
    def symmetric(self) -> bool:
        """Whether the columns are the rows themselves."""
        return self.views == 2

    @property
    def least_products(self) -> int:
        """Operations of forward and backward in units of N^2 D where no exponentials are kept between whole passes.

        Scores, two gradients, and the scores again in pass 2. One direction alone needs no second product of the scores, and
        of a symmetric matrix one triangle is enough.
        """
        if self.symmetric:
            return 4 * self.views**2
        return 8 if self.family.both else 6


LOSSES: dict[str, Loss] = {}
PLAIN: dict[str, Checked] = {}
"""Each loss's options where none are given: looking them up costs a small batch less than putting them together."""


def declare(loss: Loss) -> Loss:
    """Enter ``loss`` into the catalogue and define its operators. ValueError for a name that is taken, or that is none."""
    if not (loss.name.isidentifier() and loss.name.isascii()) or keyword.iskeyword(loss.name):
        raise ValueError(f"the name of a loss must be an ASCII identifier, such as 'info_nce'; got {loss.name!r}")
    if loss.name in LOSSES:
        raise ValueError(f"the name of a loss must be new; got {loss.name!r}, which is declared already")
    register(LossOperators(loss.name, loss.family))
    LOSSES[loss.name] = loss
    PLAIN[loss.name] = plain(loss.defaults)
    return loss


def named(name: str) -> Loss:
    """The loss ``name``; ValueError with the accepted names."""
    check_choice("loss", name, tuple(LOSSES))
    return LOSSES[name]


def table() -> str:
    """The catalogue as a table in Markdown, which docs/losses/index.md holds."""
    rows = [
        f"| [`{loss.name}_loss`]({loss.name}.md) | {loss.summary} | {', '.join(loss.sides)} | {loss.least_products}·N²·D |"
        for loss in LOSSES.values()
    ]
    return "\n".join(["| function | loss | features | operations |", "|---|---|---|---|", *rows])
