"""What a backend does with each row of the features, in O(N D): stored form, norms, positives, and the gradients' completion.

Each method states the torch expression that it stands for. R rows, width D. Sums over a row are float64, because a converged
loss hangs on the positives' digits.
"""

from __future__ import annotations

from typing import NamedTuple, Protocol

from torch import Tensor


class RowFinish(NamedTuple):
    """What turns accumulated products into the gradients of the rows ``x`` (R, D).

    ``y`` (S, D) holds the rows' partners; ``partner`` (R,) int64 says which, -1 for none, and None means the same row.
    ``positive_pull`` (R,) float64 multiplies the partner. ``y`` and ``positive_pull`` are None where the positives' part has
    been added already. ``projection`` (R,) float64 is the squared inverse norm, 0 where the norm is clamped; None without
    normalisation. ``alpha`` and ``scale`` are float64 and 0-d; beside features that stay float16, ``alpha`` may be (R,), a
    number for each row.
    """

    x: Tensor
    y: Tensor | None
    partner: Tensor | None
    positive_pull: Tensor | None
    projection: Tensor | None
    alpha: Tensor
    scale: Tensor


class RowOperations(Protocol):
    """Row by row, whatever the loss."""

    def stored(self, features: Tensor) -> Tensor:
        """The features as the tiles read them: ``features.to(dtype).contiguous()`` in a dtype that the backend multiplies."""

    def widened(self, rows: Tensor, cols: Tensor | None) -> tuple[Tensor, Tensor | None]:
        """Both sides as ``stored`` wants them, for one call only: their memory may be used again by the thread's next call."""

    def norms(self, x: Tensor, eps: float) -> tuple[Tensor, Tensor, Tensor]:
        """Of each row (R,) float64: the norm, what normalises it as ``F.normalize`` does, the Jacobian's factor::

            norm = x.double().norm(dim=1)
            inverse = 1 / norm.clamp_min(eps)
            projection = inverse.square() * (norm > eps)

        Below ``eps`` the norm is a constant, and its derivative vanishes.
        """

    def paired_dots(self, x: Tensor, y: Tensor, partner: Tensor | None) -> Tensor:
        """``(x.double() * y[partner].double()).sum(1)`` (R,), 0 where the partner is -1; no ``partner``: the same row."""

    def finish_rows(self, grad: Tensor, finish: RowFinish, out: Tensor) -> Tensor:
        """Complete the gradient's rows ``grad`` (R, D), which are overwritten, into ``out``, which may be the same::

            g = alpha * grad - positive_pull[:, None] * y[partner]
            dots = (x.double() * g.double()).sum(1)
            out = scale * (g - (projection * dots)[:, None] * x)

        Returns ``dots`` (R,) float64.
        """


class ProductOperations(Protocol):
    """The three products of a tile, on the library that runs them fastest."""

    @property
    def name(self) -> str: ...

    def scores(self, a: Tensor, b: Tensor, out: Tensor) -> Tensor:
        """``a @ b.T``, in ``out`` or in memory of its own."""

    def add_rows(self, grad: Tensor, w: Tensor, b: Tensor) -> None:
        """``grad += w @ b``."""

    def transposed(self, a: Tensor) -> Tensor:
        """``a`` in the form that ``add_cols`` reads; computed once for a strip of rows."""

    def add_cols(self, grad: Tensor, w: Tensor, a_transposed: Tensor) -> None:
        """``grad += w.T @ a``."""
