"""SigLIP's loss: a sigmoid of every pair."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import torch
import torch.nn.functional as F
from torch import Tensor

from clipfast.losses import arguments, dispatch
from clipfast.losses.declaration import Loss, VectorBytes, declare
from clipfast.losses.dense import diagonal
from clipfast.losses.options import LossOptions, documented
from clipfast.operators.record import Inputs
from clipfast.operators.sigmoid_family import SigmoidFamily

if TYPE_CHECKING:
    from typing_extensions import Unpack

BIAS = -10.0  # SigLIP's initial bias


def dense(z: Tensor, targets: Tensor | None) -> Tensor:
    """The definition: each row's ``-sum_j log sigmoid(y_ij z_ij)``, y 1 on the diagonal and -1 elsewhere: (N,)."""
    return F.softplus(torch.where(diagonal(z), -z, z), threshold=40).sum(1)


def textbook(a: Tensor, b: Tensor, scale: Tensor) -> Tensor:
    logits = scale * a @ b.t() + BIAS
    labels = 2 * torch.eye(a.shape[0], dtype=logits.dtype, device=a.device) - 1
    return -F.logsigmoid(labels * logits).sum() / a.shape[0]


def fused(a: Tensor, b: Tensor, scale: Tensor, **options: Any) -> Any:
    return siglip_loss(a, b, scale, BIAS, **options)


SIGLIP = declare(
    Loss(
        name="siglip",
        summary="sigmoid of every pair of image and text (SigLIP)",
        sides=("image_features", "text_features"),
        family=SigmoidFamily(),
        dense=dense,
        textbook=textbook,
        fused=fused,
        vector_bytes=VectorBytes(120, 112, closing=(24, 24)),
    )
)


@documented(SIGLIP.defaults)
def siglip_loss(
    image_features: Tensor,
    text_features: Tensor,
    logit_scale: Tensor | float,
    logit_bias: Tensor | float,
    **options: Unpack[LossOptions],
) -> Tensor:
    """The pairwise sigmoid loss of SigLIP (Zhai et al., 2023, algorithm 1). It replaces::

        logits = logit_scale * image_features @ text_features.T + logit_bias
        labels = 2 * torch.eye(N) - 1
        -F.logsigmoid(labels * logits).sum() / N

    ``image_features`` and ``text_features`` (N, D): rows i belong together. ``logit_scale`` multiplies the similarities, and
    ``logit_bias`` is added. ``reduction="none"`` gives each image's sum over the texts (N,). With "mean" the forward pass
    computes the gradients as well, 6 N^2 D operations in all; the other reductions take 8.

    >>> images, texts = torch.eye(4), torch.eye(4)
    >>> siglip_loss(images, texts, logit_scale=20.0, logit_bias=-10.0)
    tensor(0.0002)
    """
    images, texts, checked = dispatch.features(SIGLIP, image_features, text_features, None, options)
    arguments.same_number(images, texts, SIGLIP.sides, "the sigmoid loss takes them in pairs")
    scale = arguments.number(logit_scale, images, "logit_scale")
    bias = arguments.number(logit_bias, images, "logit_bias")
    return dispatch.evaluate(dispatch.Call(SIGLIP, Inputs(images, texts, scale, bias, None), checked)).value
