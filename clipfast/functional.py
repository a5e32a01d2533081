"""The contrastive losses as functions. Each docstring states the dense expression that the fused one replaces.

Common to all: features are (rows, width) in float32, float64, bfloat16 or float16, both sides of one dtype (under
autocast the narrower is promoted), contiguous or not. ``normalize=True`` divides each row by its Euclidean norm as
``F.normalize`` does, inside the loss, without a normalised copy. The scale multiplies the similarities (a float or a
tensor with one element). Losses are float32, or float64 for float64 features. Gradients flow to the features and to
every tensor scale and bias that asks for them; what is not asked for is not computed.

``backend`` forces one of ``clipfast.backends()``; ``workspace_bytes`` bounds the extra memory beside the gradients.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from clipfast import checks, reference
from clipfast.backends import choose
from clipfast.ops import ops
from clipfast.pairs import IGNORE_INDEX, match
from clipfast.tiling import DEFAULT_WORKSPACE_BYTES

IMAGES_AND_TEXTS = ("image_features", "text_features")


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


def clip_loss(
    image_features: Tensor,
    text_features: Tensor,
    logit_scale: Tensor | float,
    logit_bias: Tensor | float | None = None,
    *,
    targets: Tensor | None = None,
    normalize: bool = False,
    reduction: str = "mean",
    return_stats: bool = False,
    backend: str | None = None,
    workspace_bytes: int = DEFAULT_WORKSPACE_BYTES,
) -> Tensor | tuple[Tensor, ClipStats]:
    """The symmetric cross-entropy of CLIP (Radford et al., 2021, figure 3). It replaces::

        logits = logit_scale * image_features @ text_features.T + logit_bias
        labels = torch.arange(len(logits))
        (F.cross_entropy(logits, labels) + F.cross_entropy(logits.T, labels)) / 2

    ``targets`` (M,) int64 gives each image's text, -100 for none; then the numbers of images and texts may differ, and
    what is unpaired serves as a negative only. Each direction averages over the pairs. A text may have one image.
    A bias shifts all logits alike and changes neither the loss nor any gradient; it is accepted for open_clip's sake
    and shows in the statistics. ``reduction="none"`` gives (M,), half of each pair's two losses, 0 for unpaired images.

    Raises ValueError or TypeError for shapes, dtypes and targets that it cannot serve.
    """
    image_features, text_features = checks.features(image_features, text_features, IMAGES_AND_TEXTS)
    checks.reduction(reduction)
    checks.targets(targets, image_features)
    if targets is None:
        advice = "pass targets (M,) int64 with each image's text (-100 for none) for unequal numbers"
        checks.same_number(image_features, text_features, IMAGES_AND_TEXTS, advice)
    scale = checks.number(logit_scale, image_features, "logit_scale")
    bias = None if logit_bias is None else checks.number(logit_bias, image_features, "logit_bias")
    name = choose(backend, image_features, text_features)
    if name == "reference":
        row_nll, col_nll, state = _dense_clip(image_features, text_features, scale, targets, normalize, return_stats)
    else:
        row_nll, col_nll, row_state, col_state, _, _ = ops.softmax_nll(
            image_features, text_features, scale, targets, True, normalize, return_stats,
            _needs_grad(image_features, text_features, scale), workspace_bytes, name,
        )  # fmt: skip
        state = (row_state[0], col_state[0], row_state[1], row_state[2], col_state[1])
    loss = _both_directions(row_nll, col_nll, targets, reduction)
    if bias is not None and bias.requires_grad:
        loss = loss + 0.0 * bias.to(loss.dtype)  # its gradient is 0, but it has one
    return (loss, _stats(state, targets, bias, loss.dtype)) if return_stats else loss


def info_nce_loss(
    queries: Tensor,
    keys: Tensor,
    logit_scale: Tensor | float,
    *,
    targets: Tensor | None = None,
    normalize: bool = False,
    reduction: str = "mean",
    backend: str | None = None,
    workspace_bytes: int = DEFAULT_WORKSPACE_BYTES,
) -> Tensor:
    """InfoNCE (van den Oord et al., 2018) in one direction, M queries against K keys. It replaces::

        F.cross_entropy(logit_scale * queries @ keys.T, targets, ignore_index=-100, reduction=reduction)

    ``targets`` (M,) int64 is the column of each query's positive key, ``arange(M)`` by default (further keys are
    negatives, such as mined hard ones or a queue); -100 ignores a query. Several queries may share a key.
    """
    names = ("queries", "keys")
    queries, keys = checks.features(queries, keys, names)
    checks.reduction(reduction)
    checks.targets(targets, queries)
    if targets is None and queries.shape[0] > keys.shape[0]:
        raise ValueError(
            f"{queries.shape[0]} queries, but only {keys.shape[0]} keys; pass targets (M,) int64, each query's key"
        )
    scale = checks.number(logit_scale, queries, "logit_scale")
    name = choose(backend, queries, keys)
    if name == "reference":
        match(targets, queries.shape[0], keys.shape[0], False, queries.device)
        nll = reference.cross_entropy(reference.logits(queries, keys, scale, normalize), targets)
    else:
        keep = _needs_grad(queries, keys, scale)
        nll = ops.softmax_nll(queries, keys, scale, targets, False, normalize, False, keep, workspace_bytes, name)[0]
    return _reduce(nll, targets, reduction)


def nt_xent_loss(
    z1: Tensor,
    z2: Tensor,
    temperature: Tensor | float,
    *,
    normalize: bool = True,
    reduction: str = "mean",
    backend: str | None = None,
    workspace_bytes: int = DEFAULT_WORKSPACE_BYTES,
) -> Tensor:
    """SimCLR's NT-Xent (Chen et al., 2020, equation 1) over the 2N views of N samples. It replaces::

        z = F.normalize(torch.cat([z1, z2]), dim=1)
        logits = (z @ z.T / temperature).masked_fill(torch.eye(2 * N, dtype=torch.bool), -torch.inf)
        F.cross_entropy(logits, torch.arange(2 * N).roll(N))

    The scores are symmetric: one triangle of the tiles is computed, half the work. ``reduction="none"`` gives (2N,),
    the losses of ``z1``'s views and then of ``z2``'s.
    """
    names = ("z1", "z2")
    z1, z2 = checks.features(z1, z2, names)
    checks.reduction(reduction)
    checks.same_number(z1, z2, names, "each sample needs its two views")
    scale = checks.number(temperature, z1, "temperature").reciprocal()
    views = torch.cat([z1, z2])
    name = choose(backend, views, views)
    if name == "reference":
        nll = reference.nt_xent_nll(reference.logits(views, views, scale, normalize))
    else:
        n = z1.shape[0]
        partner = torch.arange(2 * n, device=views.device).roll(n)
        keep = _needs_grad(views, scale)
        nll = ops.softmax_nll(views, None, scale, partner, False, normalize, False, keep, workspace_bytes, name)[0]
    return _reduce(nll, None, reduction)


def siglip_loss(
    image_features: Tensor,
    text_features: Tensor,
    logit_scale: Tensor | float,
    logit_bias: Tensor | float,
    *,
    normalize: bool = False,
    reduction: str = "mean",
    backend: str | None = None,
    workspace_bytes: int = DEFAULT_WORKSPACE_BYTES,
) -> Tensor:
    """The pairwise sigmoid loss of SigLIP (Zhai et al., 2023, algorithm 1). It replaces::

        logits = logit_scale * image_features @ text_features.T + logit_bias
        labels = 2 * torch.eye(N) - 1
        -F.logsigmoid(labels * logits).sum() / N

    ``reduction="none"`` gives each image's sum over the texts (N,). With "mean" the forward pass computes the
    gradients as well, 6 N^2 D operations in all; the other reductions take 8.
    """
    image_features, text_features = checks.features(image_features, text_features, IMAGES_AND_TEXTS)
    checks.reduction(reduction)
    checks.same_number(image_features, text_features, IMAGES_AND_TEXTS, "the sigmoid loss takes them in pairs")
    scale = checks.number(logit_scale, image_features, "logit_scale")
    bias = checks.number(logit_bias, image_features, "logit_bias")
    name = choose(backend, image_features, text_features)
    if name == "reference":
        nll = reference.siglip_nll(reference.logits(image_features, text_features, scale, normalize) + bias)
        return _reduce(nll, None, reduction)
    inputs = (image_features, text_features, scale, bias)
    if reduction != "mean":
        return _reduce(ops.sigmoid_nll(*inputs, normalize, workspace_bytes, name), None, reduction)
    wants = [_needs_grad(x) for x in inputs]
    return ops.sigmoid_mean(*inputs, normalize, *wants, workspace_bytes, name)[0]


def _needs_grad(*tensors: Tensor) -> bool:
    return torch.is_grad_enabled() and any(x.requires_grad for x in tensors)


def _pairs(nll: Tensor, targets: Tensor | None) -> Tensor | int:
    return nll.shape[0] if targets is None else (targets != IGNORE_INDEX).sum()


def _reduce(nll: Tensor, targets: Tensor | None, reduction: str) -> Tensor:
    if reduction == "none":
        return nll
    return nll.sum() if reduction == "sum" else nll.sum() / _pairs(nll, targets)


def _both_directions(row_nll: Tensor, col_nll: Tensor, targets: Tensor | None, reduction: str) -> Tensor:
    if reduction != "none":
        total = (row_nll.sum() + col_nll.sum()) / 2
        return total if reduction == "sum" else total / _pairs(row_nll, targets)
    if targets is None:
        return (row_nll + col_nll) / 2
    return (row_nll + col_nll[targets.clamp_min(0)].masked_fill(targets == IGNORE_INDEX, 0.0)) / 2


def _dense_clip(images: Tensor, texts: Tensor, scale: Tensor, targets: Tensor | None, normalize: bool, stats: bool):
    match(targets, images.shape[0], texts.shape[0], True, images.device)
    z = reference.logits(images, texts, scale, normalize)
    row_nll, col_nll = reference.clip_nll(z, targets)
    return row_nll, col_nll, _dense_state(z.detach().double(), targets) if stats else ()


def _dense_state(z: Tensor, targets: Tensor | None) -> tuple[Tensor, ...]:
    rows = torch.arange(z.shape[0], device=z.device)
    labels = rows if targets is None else targets
    paired = labels != IGNORE_INDEX
    positive = z[rows, labels.clamp_min(0)].masked_fill(~paired, 0.0)
    negatives = z.clone()
    negatives[rows[paired], labels[paired]] = -torch.inf
    return z.logsumexp(1), z.logsumexp(0), positive, negatives.amax(1), negatives.amax(0)


@torch.no_grad()
def _stats(state: tuple[Tensor, ...], targets: Tensor | None, bias: Tensor | None, dtype: torch.dtype) -> ClipStats:
    row_lse, col_lse, positive, row_best, col_best = state
    add = 0.0 if bias is None else bias.double()
    if targets is None:
        paired, other_best = torch.ones_like(positive, dtype=torch.bool), col_best
    else:
        paired, other_best = targets != IGNORE_INDEX, col_best[targets.clamp_min(0)]
    pairs = paired.sum()
    right = [((positive >= best) & paired).sum() / pairs for best in (row_best, other_best)]
    shifted = torch.where(paired, positive + add, positive)
    return ClipStats((row_lse + add).to(dtype), (col_lse + add).to(dtype), shifted.to(dtype), right[0], right[1])
