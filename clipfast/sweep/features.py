"""One side of a loss: the features as the tiles read them, and what normalises them."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from clipfast.common.dtypes import compute_dtype
from clipfast.distributed.exchange import Exchange
from clipfast.sweep.row_operations import RowOperations

NORM_EPS = 1e-12  # as in torch.nn.functional.normalize


@dataclass
class Features:
    """``x`` (R, D) as the tiles read it. What normalises the rows is float64, and None without normalisation.

    ``max_norm`` (0-d): the largest norm of all ranks' rows. ``inverse_norm`` (R,), ``projection`` (R,): see
    ``RowOperations.norms``. ``inner`` (R,), in the compute dtype, is the part of the inverse norms that enters the stored
    weights. For float16, whose range would not hold it, the inverse norm is split: ``inner`` is at most 1, and the rest is
    applied to the finished sums, ``outer`` (R,) to the row's own gradient and ``max_inverse_norm`` (0-d) to all others.
    """

    x: Tensor
    max_norm: Tensor
    inverse_norm: Tensor | None = None
    projection: Tensor | None = None
    inner: Tensor | None = None
    outer: Tensor | None = None
    max_inverse_norm: Tensor | None = None

    @classmethod
    def of(cls, features: Tensor, normalize: bool, operations: RowOperations, exchange: Exchange) -> Features:
        x = operations.stored(features.detach())
        norm, inverse, projection = operations.norms(x, NORM_EPS)
        max_norm = exchange.largest(norm.max())
        if not normalize:
            return cls(x, max_norm)
        max_inverse_norm = None
        if x.dtype == torch.float16:
            max_inverse_norm = exchange.largest(torch.where(_above_zero(inverse), inverse, 0.0).max())
            max_inverse_norm = torch.where(max_inverse_norm > 0, max_inverse_norm, 1.0)
        return cls.normalised(x, max_norm, inverse, projection, max_inverse_norm)

    @classmethod
    def normalised(
        cls, x: Tensor, max_norm: Tensor, inverse: Tensor, projection: Tensor | None, max_inverse_norm: Tensor | None
    ) -> Features:
        if max_inverse_norm is None:
            return cls(x, max_norm, inverse, projection, inverse.to(compute_dtype(x.dtype)))
        outer = torch.where(_above_zero(inverse), max_inverse_norm, inverse)
        return cls(x, max_norm, inverse, projection, (inverse / outer).float(), outer, max_inverse_norm)

    def block(self, x: Tensor, inverse_norm: Tensor | None) -> Features:
        """Other columns (K, D) of the same loss, perhaps another rank's."""
        if inverse_norm is None:
            return Features(x, self.max_norm)
        return Features.normalised(x, self.max_norm, inverse_norm, None, self.max_inverse_norm)


def _above_zero(inverse: Tensor) -> Tensor:
    """False for rows of norm 0, or nearly: they contribute nothing to others, and their own factor is 1 / NORM_EPS."""
    return inverse < 1 / NORM_EPS
