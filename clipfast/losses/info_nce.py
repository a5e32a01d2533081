"""InfoNCE: a cross-entropy in one direction."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import torch
import torch.nn.functional as F
from torch import Tensor

from clipfast.losses import arguments, dispatch
from clipfast.losses.declaration import Loss, VectorBytes, declare
from clipfast.losses.dense import cross_entropy
from clipfast.losses.options import LossOptions, documented
from clipfast.operators.record import Inputs
from clipfast.operators.softmax_family import SoftmaxFamily

if TYPE_CHECKING:
    from typing_extensions import Unpack


def textbook(a: Tensor, b: Tensor, scale: Tensor) -> Tensor:
    return F.cross_entropy(scale * a @ b.t(), torch.arange(a.shape[0], device=a.device))


def fused(a: Tensor, b: Tensor, scale: Tensor, **options: Any) -> Any:
    return info_nce_loss(a, b, scale, **options)


INFO_NCE = declare(
    Loss(
        name="info_nce",
        summary="cross-entropy of queries over keys (InfoNCE)",
        sides=("queries", "keys"),
        family=SoftmaxFamily(),
        dense=cross_entropy,
        textbook=textbook,
        fused=fused,
        vector_bytes=VectorBytes(124, 68, closing=(16, 9)),
    )
)


@documented(INFO_NCE.defaults)
def info_nce_loss(
    queries: Tensor,
    keys: Tensor,
    logit_scale: Tensor | float,
    *,
    targets: Tensor | None = None,
    **options: Unpack[LossOptions],
) -> Tensor:
    """InfoNCE (van den Oord et al., 2018) in one direction, M queries against K keys. It replaces::

        F.cross_entropy(logit_scale * queries @ keys.T, targets, ignore_index=-100, reduction=reduction)

    ``queries`` (M, D) and ``keys`` (K, D); ``logit_scale`` multiplies the similarities. ``reduction="none"`` gives (M,).
    ``targets`` (M,) int64 is the column of each query's positive key, ``arange(M)`` by default (further keys are
    negatives, such as mined hard ones or a queue); -100 ignores a query. Several queries may share a key.

    >>> queries, keys = torch.eye(4)[:2], torch.eye(4)
    >>> info_nce_loss(queries, keys, logit_scale=10.0)
    tensor(0.0001)
    """
    queries, keys, checked = dispatch.features(INFO_NCE, queries, keys, targets, options)
    if targets is None and queries.shape[0] > keys.shape[0]:
        raise ValueError(
            f"keys must be at least as many as queries; got {keys.shape[0]} keys for {queries.shape[0]} queries; pass "
            "targets (M,) int64, each query's key"
        )
    scale = arguments.number(logit_scale, queries, "logit_scale")
    return dispatch.evaluate(dispatch.Call(INFO_NCE, Inputs(queries, keys, scale, None, targets), checked)).value
