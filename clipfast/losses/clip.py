"""CLIP's loss: a cross-entropy in both directions."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from clipfast.losses import arguments, dispatch
from clipfast.losses.declaration import Loss, VectorBytes, declare
from clipfast.losses.dense import cross_entropy
from clipfast.losses.options import LossOptions, documented
from clipfast.operators.record import Inputs
from clipfast.operators.softmax_family import SoftmaxFamily
from clipfast.sweep.targets import IGNORE_INDEX, inverse

if TYPE_CHECKING:
    from typing_extensions import Unpack


def dense(z: Tensor, targets: Tensor | None) -> Tensor:
    """The definition: both directions' losses, the rows' and then the columns', 0 where there is no positive: (M + N,)."""
    if targets is None:
        # Adding to the diagonal costs a small batch less than masking it; -inf would make NaN of a row without negatives.
        away = z.new_full((z.shape[0],), torch.finfo(z.dtype).min / 2).diag()
        negatives, positive = z + away, z.diagonal()
        gaps = torch.cat([negatives.logsumexp(1) - positive, negatives.logsumexp(0) - positive])
        return F.softplus(gaps, threshold=40)
    row_of_col = inverse(targets, z.shape[1])
    return torch.cat([cross_entropy(z, targets), cross_entropy(z.t(), row_of_col.masked_fill(row_of_col < 0, IGNORE_INDEX))])


def textbook(a: Tensor, b: Tensor, scale: Tensor) -> Tensor:
    logits = scale * a @ b.t()
    labels = torch.arange(a.shape[0], device=a.device)
    return (F.cross_entropy(logits, labels) + F.cross_entropy(logits.t(), labels)) / 2


def fused(a: Tensor, b: Tensor, scale: Tensor, **options: Any) -> Any:
    return clip_loss(a, b, scale, **options)


CLIP = declare(
    Loss(
        name="clip",
        summary="symmetric cross-entropy of images and texts (CLIP)",
        sides=("image_features", "text_features"),
        family=SoftmaxFamily(both=True),
        dense=dense,
        textbook=textbook,
        fused=fused,
        vector_bytes=VectorBytes(164, 76, closing=(24, 34)),
    )
)


class ClipStats(NamedTuple):
    """What ``clip_loss(..., return_stats=True)`` knows of the logits without another pass, all detached.

    ``image_lse`` (M,) and ``text_lse`` (N,): log-sum-exp of each image's and each text's logits; ``positive_logits``
    (M,): 0 where an image has no text; ``image_to_text_accuracy`` and ``text_to_image_accuracy``: the share of
    the pairs whose positive is at least as large as every negative of its row or column.
    """

    image_lse: Tensor
    text_lse: Tensor
    positive_logits: Tensor
    image_to_text_accuracy: Tensor
    text_to_image_accuracy: Tensor


@documented(CLIP.defaults)
def clip_loss(
    image_features: Tensor,
    text_features: Tensor,
    logit_scale: Tensor | float,
    logit_bias: Tensor | float | None = None,
    *,
    targets: Tensor | None = None,
    return_stats: bool = False,
    **options: Unpack[LossOptions],
) -> Tensor | tuple[Tensor, ClipStats]:
    """The symmetric cross-entropy of CLIP (Radford et al., 2021, figure 3). It replaces::

        logits = logit_scale * image_features @ text_features.T + logit_bias
        labels = torch.arange(len(logits))
        (F.cross_entropy(logits, labels) + F.cross_entropy(logits.T, labels)) / 2

    ``image_features`` (M, D) and ``text_features`` (N, D): row i of the one belongs to row i of the other. ``logit_scale``
    multiplies the similarities. ``targets`` (M,) int64 gives each image's text, -100 for none; then the numbers of images
    and texts may differ, and what is unpaired serves as a negative only. Each direction averages over the pairs. A text may
    have one image.
    ``logit_bias`` shifts all logits alike and changes neither the loss nor any gradient; it is accepted for open_clip's
    sake and shows in the statistics. ``return_stats`` asks for ``(loss, ClipStats)``.
    ``reduction="none"`` gives (M,), half of each pair's two losses, 0 for unpaired images.

    >>> images, texts = torch.eye(4), torch.eye(4)
    >>> clip_loss(images, texts, logit_scale=10.0)
    tensor(0.0001)
    """
    images, texts, checked = dispatch.features(CLIP, image_features, text_features, targets, options)
    if targets is None:
        advice = "pass targets (M,) int64 with each image's text (-100 for none) for unequal numbers"
        arguments.same_number(images, texts, CLIP.sides, advice)
    scale = arguments.number(logit_scale, images, "logit_scale")
    bias = None if logit_bias is None else arguments.number(logit_bias, images, "logit_bias")
    call = dispatch.Call(CLIP, Inputs(images, texts, scale, None, targets), checked, return_stats)
    loss, state = dispatch.evaluate(call)
    if bias is not None and bias.requires_grad:
        loss = loss + 0.0 * bias.to(loss.dtype)  # its gradient is 0, but it has one
    return loss if state is None or not return_stats else (loss, _statistics(state, images.shape[0], targets, bias, loss.dtype))


@torch.no_grad()
def _statistics(state: Tensor, m: int, targets: Tensor | None, bias: Tensor | None, dtype: torch.dtype) -> ClipStats:
    lse, positive, max_negative = state
    add = 0.0 if bias is None else bias.double()
    right = positive >= max_negative
    if targets is None:
        paired, row_right, col_right = torch.ones_like(right[:m]), right[:m], right[m:]
    else:
        paired = targets != IGNORE_INDEX
        row_right, col_right = right[:m] & paired, dispatch.at_targets(right[m:], targets)
    positives = torch.where(paired, positive[:m] + add, 0.0)
    shares = [r.sum() / paired.sum() for r in (row_right, col_right)]
    return ClipStats((lse[:m] + add).to(dtype), (lse[m:] + add).to(dtype), positives.to(dtype), *shares)
