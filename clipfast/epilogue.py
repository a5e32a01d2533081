"""What is left after the tiles, in O(N D): the positives' part, the normalisation's Jacobian, the scale's gradient."""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

from torch import Tensor

from clipfast.pairs import Pairs

if TYPE_CHECKING:
    from clipfast.products import Products
    from clipfast.tiles.torch_tiles import TorchTiles


class Gradients(NamedTuple):
    """Of the rows (M, D), the columns (N, D) and the scale (0-d float64); None where not wanted."""

    rows: Tensor | None
    cols: Tensor | None
    scale: Tensor | None


def positive_logits(pairs: Pairs, ops: TorchTiles) -> Tensor:
    """Each row's positive logit (M,), accumulated in float64; 0 where the row has no positive."""
    z = ops.paired_dots(pairs.rows.x, pairs.cols.x, pairs.partner) * pairs.row_factor
    if pairs.cols.inverse_norm is None:
        return z
    return z * _at_partner(pairs.cols.inverse_norm, pairs.partner)


def finish(pairs: Pairs, ops: TorchTiles, products: Products, pull: Tensor, alpha: float) -> Gradients:
    """Turn the accumulated ``W b`` and ``W^T a``, in place, into gradients of the features.

    ``pull`` (M,) is minus the loss's derivative by each positive logit; ``alpha`` multiplies the accumulators.
    """
    if pairs.rows.inverse_norm is not None and pairs.cols.inverse_norm is not None:
        pull = pull * pairs.rows.inverse_norm * _at_partner(pairs.cols.inverse_norm, pairs.partner)
    left, right = pairs.rows, pairs.cols
    rows, cols, wanted = products.rows, products.cols, products.wanted
    dots = None
    if rows is not None:
        dots = ops.finish_rows(rows, left.x, right.x, pairs.partner, pull, left.projection, alpha, pairs.scale)
    if cols is not None and not pairs.triangle:
        col_dots = _finish_cols(pairs, ops, cols, pull, alpha)
        dots = col_dots if dots is None else dots
    scale = dots.sum() / (2 if pairs.triangle else 1) if wanted.scale and dots is not None else None
    return Gradients(rows if wanted.rows else None, cols if wanted.cols else None, scale)


def _finish_cols(pairs: Pairs, ops: TorchTiles, cols: Tensor, pull: Tensor, alpha: float) -> Tensor:
    left, right = pairs.rows, pairs.cols
    if pairs.partner is None or pairs.back is not None:
        own = pull if pairs.back is None else pull[pairs.back.clamp_min(0)]
        return ops.finish_rows(cols, right.x, left.x, pairs.back, own, right.projection, alpha, pairs.scale)
    cols.mul_(alpha)
    for start in range(0, left.x.shape[0], 1024):  # several rows may share a column: scatter, a bounded piece at a time
        r = slice(start, start + 1024)
        paired = pairs.partner[r] >= 0
        pulled = -pull[r][paired].to(cols.dtype).unsqueeze(1) * left.x[r][paired]
        cols.index_add_(0, pairs.partner[r][paired], pulled)
    return ops.finish_rows(cols, right.x, None, None, None, right.projection, 1.0, pairs.scale)


def _at_partner(values: Tensor, partner: Tensor | None) -> Tensor:
    return values if partner is None else values[partner.clamp_min(0)]
