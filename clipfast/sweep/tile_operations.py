"""What a backend does with one tile, in terms that say nothing of how it does it. A sweep decides which operation runs when.

Each method states the torch expression that it stands for, for the rows ``x`` (m, D) and columns ``y`` (n, D) of a tile::

    z = row_scale[:, None] * (x @ y.T) * col_inverse_norm          # logits; factors of 1 without normalisation
    e = exp(z - shift), 0 at excluded pairs                        # shift = shift_log2 * log(2)

Sums are added to what is there already. Rows and columns of all vectors are those of the whole side; a tile cuts its own.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple, Protocol

from torch import Tensor

from clipfast.sweep.pairs import Pairs
from clipfast.sweep.row_operations import ProductOperations, RowOperations
from clipfast.sweep.schedule import Tile


class PartialSums(NamedTuple):
    """Pass 1's results in units of ``exp(shift)``: sums (float64) and largest values (compute dtype) of exponentials.

    The columns' are None where a tile has none of its own, the largest where nothing asks for them.
    """

    row_sum: Tensor
    row_max: Tensor | None = None
    col_sum: Tensor | None = None
    col_max: Tensor | None = None


class ExactLines(NamedTuple):
    """What the exact path's weights are made of, float64: each line's upstream gradient, over alpha, and its normaliser.

    The normaliser is infinite where there is no upstream gradient. The columns' are None where they have no softmax.
    """

    row_upstream: Tensor
    row_lse: Tensor
    col_upstream: Tensor | None = None
    col_lse: Tensor | None = None


class LineFactors(NamedTuple):
    """Pass 2's weights ``W_ij = e_ij * (u_i + v_j)``: ``u`` (M,), ``v`` (N,) in the compute dtype, zeros without a softmax.

    ``u = upstream / alpha * exp(shift - lse)``, so that W is ``dL/dz / alpha``. ``shift_log2`` (0-d) is pass 1's, in base 2,
    infinite where the sums came from the exact path, which reads ``exact`` instead.
    """

    shift_log2: Tensor
    u: Tensor
    v: Tensor
    exact: ExactLines | None = None


class SigmoidRows(NamedTuple):
    """What the sigmoid loss reads and adds to for each row.

    ``bias`` is 0-d. ``upstream`` (M,), over alpha and in the compute dtype, multiplies the row's weights. ``loss`` and
    ``sigmoid_sum`` (M,) float64 are added to; ``sigmoid_sum`` is None where no gradient is wanted.
    """

    bias: Tensor
    upstream: Tensor
    loss: Tensor
    sigmoid_sum: Tensor | None


class Workspace:
    """Exponentials that stay between the passes, and one scratch tile for everything else.

    ``kept`` (logits,) holds tiles at their slots; the scratch tile has ``largest`` logits in the dtype of ``features`` and is
    allocated when needed. ``overwrite`` lets pass 2 write its weights over the exponentials that it has read.
    """

    def __init__(self, features: Tensor, kept: Tensor, largest: int, overwrite: bool = False) -> None:
        self.features, self.memory, self.largest, self.overwrite = features, kept, largest, overwrite
        self._scratch: Tensor | None = None

    def kept(self, tile: Tile) -> Tensor | None:
        """The tile's own memory, if it has a slot."""
        if tile.slot is None:
            return None
        return self.memory.narrow(0, tile.slot, tile.area).view(tile.shape)

    def scratch(self, tile: Tile) -> Tensor:
        if self._scratch is None:
            self._scratch = self.features.new_empty(self.largest)
        return self._scratch.narrow(0, 0, tile.area).view(tile.shape)

    def exponentials(self, tile: Tile) -> Tensor:
        """Where pass 1 leaves them."""
        return self.scratch(tile) if tile.slot is None else self._own(tile)

    def weights(self, tile: Tile) -> Tensor:
        """Where pass 2 writes them."""
        return self._own(tile) if tile.slot is not None and self.overwrite else self.scratch(tile)

    def _own(self, tile: Tile) -> Tensor:
        kept = self.kept(tile)
        assert kept is not None
        return kept


class TileOperations(Protocol):
    """The operations of the softmax and of the sigmoid losses on one tile."""

    def exp_sums(self, pairs: Pairs, tile: Tile, shift_log2: Tensor, sums: PartialSums, workspace: Workspace) -> None:
        """``row_sum += e.sum(1)``, ``col_sum += e.sum(0)``, maxima likewise; ``e`` stays in the workspace if it has a slot."""

    def weights(self, pairs: Pairs, tile: Tile, factors: LineFactors, workspace: Workspace) -> Tensor:
        """``e * (u[:, None] + v) * row_inner[:, None] * col_inner``, in the dtype that the accumulating products read."""

    def sigmoid(self, pairs: Pairs, tile: Tile, rows: SigmoidRows, workspace: Workspace) -> Tensor | None:
        """With ``z`` the logits plus the bias, -inf at excluded pairs::

            loss += softplus(z).sum(1)
            sigmoid_sum += sigmoid(z).sum(1)
            weights = sigmoid(z) * upstream[:, None] * row_inner[:, None] * col_inner

        Returns the weights, None where no gradient is wanted.
        """


class DeviceExactOperations(Protocol):
    """The range guard's exact path on a device whose flags the host does not wait for: launched always, seldom at work."""

    def replace_underflowed(self, pairs: Pairs, underflowed: Tensor, lse: Tensor, max_negative: Tensor | None) -> None:
        """Where ``underflowed`` (0-d bool), each line's log-sum-exp and largest negative in float64, in place."""

    def exact_weights(self, pairs: Pairs, tile: Tile, factors: LineFactors, out: Tensor) -> None:
        """Where ``shift_log2`` is infinite, ``sweep.exact.weights`` into ``out``, which otherwise stays as it is."""


@dataclass(frozen=True)
class Backend:
    """Who computes a call: its operations on rows and tiles, the products, and the exact path's, if the host must not look.

    ``device_exact`` is None where the host looks at the range guard's flag and takes ``sweep.exact`` itself.
    """

    name: str
    rows: RowOperations
    tiles: TileOperations
    products: ProductOperations
    device_exact: DeviceExactOperations | None = None
