"""The pairs of one loss: features as the tiles read them, inverse norms, and who is whose positive."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from functools import cached_property
from typing import TYPE_CHECKING

import torch
from torch import Tensor

if TYPE_CHECKING:
    from clipfast.backends.torch_backend import TorchTiles
    from clipfast.distributed.exchange import Exchange
    from clipfast.sweep.tiling import Tile

NORM_EPS = 1e-12  # as in torch.nn.functional.normalize
IGNORE_INDEX = -100  # as in torch.nn.functional.cross_entropy


def compute_dtype(dtype: torch.dtype) -> torch.dtype:
    """The dtype of logits, sums and accumulators: float32 or wider."""
    return torch.float64 if dtype == torch.float64 else torch.float32


@dataclass
class Side:
    """One side's features ``x`` (R, D) as the tiles read them, and what normalises them (float64, None when not asked for).

    ``inner`` (R,) in the compute dtype is the part of the inverse norms that enters the stored weights. Beside float16
    features, whose range would not hold it, it is at most 1: there ``outer`` (R,) and ``top`` (0-d) are the rest, as it
    multiplies the rows' own gradients and everybody else's.
    """

    x: Tensor
    largest: Tensor
    inverse_norm: Tensor | None = None
    projection: Tensor | None = None
    inner: Tensor | None = None
    outer: Tensor | None = None
    top: Tensor | None = None

    @classmethod
    def of(cls, features: Tensor, normalize: bool, tiles: TorchTiles, exchange: Exchange) -> Side:
        x = tiles.stored(features.detach())
        norm, inverse, projection = tiles.norms(x, NORM_EPS)
        largest = exchange.largest(norm.max())
        if not normalize:
            return cls(x, largest)
        top = None
        if x.dtype == torch.float16:
            top = exchange.largest(torch.where(_proper(inverse), inverse, 0.0).max())
            top = torch.where(top > 0, top, 1.0)
        return cls.normalised(x, largest, inverse, top, projection)

    @classmethod
    def normalised(cls, x: Tensor, largest: Tensor, inverse: Tensor, top: Tensor | None, projection: Tensor | None) -> Side:
        if top is None:
            return cls(x, largest, inverse, projection, inverse.to(compute_dtype(x.dtype)))
        outer = torch.where(_proper(inverse), top, inverse)
        return cls(x, largest, inverse, projection, (inverse / outer).float(), outer, top)


def _proper(inverse: Tensor) -> Tensor:
    """False for rows of norm 0 or nearly: such a row is nothing to the others, and 1 / eps to itself."""
    return inverse < 1 / NORM_EPS


@dataclass
class Pairs:
    """Logits ``z_ij = scale * a_i * b_j * <x_i, y_j>``, a and b the inverse norms or 1; never formed as a matrix.

    ``partner`` (M,) is the column of each row's positive and ``back`` (N,) its inverse, -1 for none, both None
    where row i belongs to column i. ``excluded`` (M, 1 or 2) are the columns that are no negatives of a row.
    ``symmetric``: the columns are the rows themselves (of all ranks); with ``triangle`` only tiles on and above the
    diagonal are swept. ``both`` asks for the columns' softmax beside the rows'.
    """

    rows: Side
    cols: Side
    scale: Tensor
    row_factor: Tensor
    partner: Tensor | None
    back: Tensor | None
    excluded: Tensor
    symmetric: bool
    triangle: bool
    both: bool

    @property
    def shape(self) -> tuple[int, int]:
        return self.rows.x.shape[0], self.cols.x.shape[0]

    @property
    def dtype(self) -> torch.dtype:
        """Of logits, sums and accumulators."""
        return compute_dtype(self.rows.x.dtype)

    @property
    def normalized(self) -> bool:
        return self.rows.inverse_norm is not None

    @cached_property
    def col_factor(self) -> Tensor | None:
        """The columns' inverse norms (N,) in the compute dtype; the rows' are in ``row_factor``."""
        inverse = self.cols.inverse_norm
        return None if inverse is None else inverse.to(self.dtype)

    @cached_property
    def row_factor_base2(self) -> Tensor:
        """``row_factor`` for exponentials of base 2, the GPU's own."""
        return self.row_factor / math.log(2)

    @cached_property
    def bound(self) -> Tensor:
        """No logit is larger in absolute value (Cauchy-Schwarz); NaN when an input is NaN or infinite. 0-d float64."""
        product = self.rows.largest * self.cols.largest
        bound = self.scale.abs() * (1 + 1e-6 if self.normalized else product)
        return torch.where(product.isfinite(), bound, math.nan)

    def against(self, offset: int, x: Tensor, inverse_norm: Tensor | None = None) -> Pairs:
        """The same rows with a block of columns ``x`` (K, D), in which column 0 of these pairs stands at ``offset``."""
        if x is self.cols.x:
            return self
        own = self.cols
        cols = Side(x, own.largest) if inverse_norm is None else Side.normalised(x, own.largest, inverse_norm, own.top, None)
        excluded = torch.where(self.excluded < 0, -1, self.excluded + offset)
        return replace(self, cols=cols, excluded=excluded)

    def feeds_columns(self, tile: Tile) -> bool:
        """Whether the tile's columns get anything of their own: a triangle's diagonal tile is its own mirror image."""
        return not (self.triangle and tile.on_diagonal)

    @property
    def lines(self) -> int:
        """Softmaxes: one per row, and with two directions one per column, which come after the rows."""
        m, n = self.shape
        return m + n if self.both else m

    def split(self, per_line: Tensor | None) -> tuple[Tensor | None, Tensor | None]:
        """The rows' and the columns' part of a vector over lines, as views; a symmetric matrix's columns are its rows."""
        if per_line is None:
            return None, None
        m = self.shape[0]
        return per_line[:m], per_line if self.symmetric else per_line[m:] if self.both else None

    def unpaired_lines(self) -> Tensor | None:
        """True where a line has no positive; None when all have one."""
        if self.partner is None:
            return None
        return (self.partner if self.back is None or not self.both else torch.cat([self.partner, self.back])) < 0

    def to_lines(self, per_row: Tensor) -> Tensor:
        """Of a value per row's positive pair, each line's."""
        if not self.both:
            return per_row
        return torch.cat([per_row, per_row if self.back is None else per_row[self.back.clamp_min(0)]])

    def sum_of_lines(self, per_line: Tensor) -> Tensor:
        """Of a value per line, the sum over the lines that share each row's positive pair; 0 for unpaired rows."""
        rows, cols = self.split(per_line)
        assert rows is not None
        if cols is not None:
            rows = rows + (cols if self.partner is None else cols[self.partner.clamp_min(0)])
        return rows if self.partner is None else rows.masked_fill(self.partner < 0, 0.0)


def prepare(
    rows: Tensor, cols: Tensor | None, scale: Tensor, targets: Tensor | None, both: bool, normalize: bool, tiles: TorchTiles,
    exchange: Exchange,
) -> Pairs:  # fmt: skip
    """Pairs of ``rows`` (M, D) with ``cols`` (N, D), or with themselves; with ``both`` a column has one row at most."""
    left = Side.of(rows, normalize, tiles, exchange)
    right = left if cols is None else Side.of(cols, normalize, tiles, exchange)
    factor = scale.detach().double()
    if rows.is_cpu:
        _check_range(left, right, factor)
    m, n = left.x.shape[0], right.x.shape[0]
    partner, back = match(targets, m, n, both, left.x.device)
    row_factor = factor.expand(m).contiguous() if left.inverse_norm is None else left.inverse_norm * factor
    identity = torch.arange(m, device=left.x.device)
    column = identity if partner is None else partner
    excluded = torch.stack([identity, column], 1) if cols is None else column.unsqueeze(1)
    triangle = cols is None and exchange.ranks == 1  # a rank of several meets each pair once, as a row of its own
    return Pairs(left, right, factor, row_factor, partner, back, excluded, cols is None, triangle, both)


def match(targets: Tensor | None, m: int, n: int, unique: bool, device: torch.device) -> tuple[Tensor | None, Tensor | None]:
    """``partner`` (M,) and ``back`` (N,) of ``targets``; ``(None, None)`` for the identity on a square.

    Wrong targets are a ValueError on the CPU and an asynchronous assertion on an accelerator, as in torch's own losses:
    the host does not wait to look at them.
    """
    if targets is None:
        if m == n:
            return None, None
        targets = torch.arange(m, device=device)
    ignored = targets == IGNORE_INDEX
    inside = ignored | ((targets >= 0) & (targets < n))
    if device.type != "cpu":
        torch._assert_async(inside.all(), f"clipfast: a target is outside [0, {n}) and not {IGNORE_INDEX}")
    elif not bool(inside.all()):
        row = int((~inside).nonzero()[0])
        raise ValueError(f"targets[{row}] is {int(targets[row])}: expected a column in [0, {n}) or {IGNORE_INDEX}")
    partner = targets.masked_fill(ignored, -1)
    rows = torch.arange(m, device=device)
    back = partner.new_full((n + 1,), -1)  # the last place takes the ignored rows
    back = back.scatter_(0, torch.where(ignored, n, partner), rows)[:n]
    if unique:
        _check_unique(ignored | (back[partner.clamp_min(0)] == rows))
    return partner, back if unique else None


def _check_unique(own: Tensor) -> None:
    message = (
        "two rows have the same target: the column's direction would have two positives, which clip_loss does "
        "not support; give each column one row at most, or use info_nce_loss for one direction"
    )
    if own.device.type != "cpu":
        torch._assert_async(own.all(), message)
    elif not bool(own.all()):
        raise ValueError(message)


def number_of_pairs(count: int) -> int:
    """``count`` itself; ValueError where there is nothing to average over."""
    if count == 0:
        raise ValueError(
            f"every target is {IGNORE_INDEX}: a mean over no pairs is undefined; skip the batch or use reduction='sum'"
        )
    return count


def _check_range(left: Side, right: Side, scale: Tensor) -> None:
    """On the host, where looking costs nothing; on an accelerator such inputs come out as NaN."""
    if math.isinf(float(scale)):
        raise ValueError(f"the scale is {float(scale)}; it must be finite (a temperature of 0 makes it infinite)")
    first, second, limit = float(left.largest), float(right.largest), torch.finfo(compute_dtype(left.x.dtype)).max / 16
    if not (math.isfinite(first) and math.isfinite(second)):
        return  # NaN and infinity are the caller's: they come out as NaN, as from the dense loss
    if first * second > limit:
        raise ValueError(
            f"feature norms of {first:.1e} and {second:.1e} overflow {compute_dtype(left.x.dtype)} when multiplied; "
            "scale the features down or normalise them before the loss"
        )
