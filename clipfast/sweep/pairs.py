"""The pairs of one loss: both sides' features, the scale, and which pairs are positives."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from functools import cached_property

import torch
from torch import Tensor

from clipfast.common.dtypes import compute_dtype
from clipfast.distributed.exchange import Exchange
from clipfast.sweep.features import Features
from clipfast.sweep.row_operations import RowOperations
from clipfast.sweep.targets import Matching, match


@dataclass
class Pairs:
    """Logits ``z_ij = scale * a_i * b_j * <x_i, y_j>``, a and b the inverse norms or 1; never formed as a matrix.

    ``row_scale`` (M,) float64 is ``scale * a_i``. ``excluded`` (M, 1 or 2) are the columns that are no negatives of a row: its
    positive, and among one side's views the row itself. ``symmetric``: the columns are the rows themselves (of all ranks).
    ``triangle``: only tiles on and above the diagonal are swept. ``both``: the columns have softmaxes beside the rows'.
    """

    rows: Features
    cols: Features
    scale: Tensor
    row_scale: Tensor
    matching: Matching
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
    def col_inverse_norm(self) -> Tensor | None:
        """The columns' inverse norms (N,) in the compute dtype; the rows' are in ``row_scale``."""
        inverse = self.cols.inverse_norm
        return None if inverse is None else inverse.to(self.dtype)

    @cached_property
    def row_scale_log2(self) -> Tensor:
        """``row_scale`` for logits in base 2, in which GPUs take exponentials."""
        return self.row_scale / math.log(2)

    @cached_property
    def bound(self) -> Tensor:
        """No logit is larger in absolute value (Cauchy-Schwarz); NaN when an input is NaN or infinite. 0-d float64."""
        product = self.rows.max_norm * self.cols.max_norm
        bound = self.scale.abs() * (1 + 1e-6 if self.normalized else product)
        return torch.where(product.isfinite(), bound, math.nan)

    def against(self, offset: int, x: Tensor, inverse_norm: Tensor | None = None) -> Pairs:
        """The same rows with a block of columns ``x`` (K, D), in which column 0 of these pairs stands at ``offset``."""
        if x is self.cols.x:
            return self
        excluded = torch.where(self.excluded < 0, -1, self.excluded + offset)
        return replace(self, cols=self.cols.block(x, inverse_norm), excluded=excluded)

    # A line is one softmax: a row or, with two directions, also a column. Vectors over lines hold the rows first.

    @property
    def lines(self) -> int:
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
        partners = [self.matching.col_of_row, self.matching.row_of_col if self.both else None]
        found = [partner for partner in partners if partner is not None]
        return torch.cat(found) < 0 if found else None

    def to_lines(self, per_row: Tensor) -> Tensor:
        """Each line's value, from one value for the positive pair of each row."""
        if not self.both:
            return per_row
        return torch.cat([per_row, at(per_row, self.matching.row_of_col)])

    def sum_of_lines(self, per_line: Tensor) -> Tensor:
        """For each row's positive pair, the sum over the lines whose positive it is (M,); 0 for unpaired rows."""
        rows, cols = self.split(per_line)
        assert rows is not None
        partner = self.matching.col_of_row
        if cols is not None:
            rows = rows + at(cols, partner)
        return rows if partner is None else rows.masked_fill(partner < 0, 0.0)


def at(values: Tensor, partner: Tensor | None) -> Tensor:
    """``values`` at each line's partner; an arbitrary one where the line has none."""
    return values if partner is None else values[partner.clamp_min(0)]


def prepare(
    rows: Tensor, cols: Tensor | None, scale: Tensor, targets: Tensor | None, *,
    both: bool, normalize: bool, operations: RowOperations, exchange: Exchange,
) -> Pairs:  # fmt: skip
    """Pairs of ``rows`` (M, D) with ``cols`` (N, D), or with themselves; with ``both`` a column has one row at most."""
    left = Features.of(rows, normalize, operations, exchange)
    right = left if cols is None else Features.of(cols, normalize, operations, exchange)
    factor = scale.detach().double()
    if rows.is_cpu:
        _check_range(left, right, factor)
    m, n = left.x.shape[0], right.x.shape[0]
    matching = match(targets, m, n, both, left.x.device)
    row_scale = factor.expand(m).contiguous() if left.inverse_norm is None else left.inverse_norm * factor
    identity = torch.arange(m, device=left.x.device)
    column = identity if matching.col_of_row is None else matching.col_of_row
    excluded = torch.stack([identity, column], 1) if cols is None else column.unsqueeze(1)
    triangle = cols is None and exchange.ranks == 1  # a rank of several meets each pair once, as a row of its own
    return Pairs(left, right, factor, row_scale, matching, excluded, cols is None, triangle, both)


def _check_range(left: Features, right: Features, scale: Tensor) -> None:
    """On the host, where looking costs nothing; on an accelerator such inputs come out as NaN."""
    if math.isinf(float(scale)):
        raise ValueError(f"the scale must be finite; got {float(scale)} (a temperature of 0 makes it infinite)")
    first, second, limit = float(left.max_norm), float(right.max_norm), torch.finfo(compute_dtype(left.x.dtype)).max / 16
    if not (math.isfinite(first) and math.isfinite(second)):
        return  # NaN and infinity are the caller's: they come out as NaN, as from the dense loss
    if first * second > limit:
        raise ValueError(
            f"the features' norms must have a product below {limit:.1e}, where {compute_dtype(left.x.dtype)} ends; got "
            f"{first:.1e} and {second:.1e}; scale the features down or normalise them before the loss"
        )
