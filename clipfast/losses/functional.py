"""The contrastive losses as functions. Each docstring states the dense expression that the fused one replaces.

Common to all: features are (rows, width) in float32, float64, bfloat16 or float16, both sides of one dtype (under
autocast the narrower is promoted), contiguous or not. ``normalize=True`` divides each row by its Euclidean norm as
``F.normalize`` does, inside the loss, without a normalised copy. The scale multiplies the similarities (a float or a
tensor with one element). Losses are float32, or float64 for float64 features. Gradients flow to the features and to
every tensor scale and bias that asks for them; what is not asked for is not computed.

``backend`` forces one of ``clipfast.backends()``; ``workspace_bytes`` bounds the extra memory beside the gradients.

``group``: a ``torch.distributed`` process group whose ranks call the loss together, each with its own part of the batch (of
any size; row i still belongs to column i of the same rank, and ``targets`` to columns of the same rank). "mean" and "sum" then
give every rank the value for the batch of all ranks; "none" gives the losses of its own rows. Gradients are those of the sum
of the values on all ranks, which after the averaging of DDP or FSDP are one process's on the whole batch;
``gradient_reduction="sum"`` counts a value that all ranks share once, for wrappers that sum. ``strategy``: "ring" passes the
columns round, O(n D) memory on each rank; "gather" collects them, O(N D); "auto" gathers up to 256 MiB
(docs/guides/distributed.md). Scale, bias and all options must be the same on all ranks. Raises RuntimeError where a rank fails
or does not come.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

import torch
from torch import Tensor

from clipfast.backends.registry import SINGLE, requested
from clipfast.losses import arguments as checks
from clipfast.losses import reference
from clipfast.operators import single
from clipfast.operators.connection import Across, across
from clipfast.operators.ops import ops
from clipfast.sweep.pairs import IGNORE_INDEX, match, number_of_pairs

if TYPE_CHECKING:
    from torch.distributed import ProcessGroup

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
    workspace_bytes: int | None = None,
    group: ProcessGroup | None = None,
    strategy: str = "auto",
    gradient_reduction: str = "mean",
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
    ranks = across(group, strategy, gradient_reduction)
    plain = reduction == "mean" and targets is None and not return_stats
    name = requested(backend, image_features, text_features, plain, ranks.group)
    m = image_features.shape[0]
    if name == SINGLE:
        loss = single.softmax_mean(image_features, text_features, scale, True, normalize)
    elif name == "reference":
        nll, state = _dense_clip(image_features, text_features, scale, targets, normalize, return_stats)
        loss = _both_directions(nll, m, targets, reduction, ranks)
    else:
        call = Softmax(image_features, text_features, scale, targets, True, normalize, workspace_bytes, name, ranks)
        if reduction == "mean":
            loss, state = call.mean(return_stats)
        else:
            nll, state = call.nll(return_stats)
            loss = _both_directions(nll, m, targets, reduction, ranks)
    if bias is not None and bias.requires_grad:
        loss = loss + 0.0 * bias.to(loss.dtype)  # its gradient is 0, but it has one
    return (loss, _stats(state, m, targets, bias, loss.dtype)) if return_stats else loss


def info_nce_loss(
    queries: Tensor,
    keys: Tensor,
    logit_scale: Tensor | float,
    *,
    targets: Tensor | None = None,
    normalize: bool = False,
    reduction: str = "mean",
    backend: str | None = None,
    workspace_bytes: int | None = None,
    group: ProcessGroup | None = None,
    strategy: str = "auto",
    gradient_reduction: str = "mean",
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
    ranks = across(group, strategy, gradient_reduction)
    name = requested(backend, queries, keys, reduction == "mean" and targets is None, ranks.group)
    if name == SINGLE:
        return single.softmax_mean(queries, keys, scale, False, normalize)
    if name == "reference":
        match(targets, queries.shape[0], keys.shape[0], False, queries.device)
        nll = reference.cross_entropy(reference.logits(queries, keys, scale, normalize), targets)
        return _reduce(nll, targets, reduction, ranks)
    call = Softmax(queries, keys, scale, targets, False, normalize, workspace_bytes, name, ranks)
    return call.mean()[0] if reduction == "mean" else _reduce(call.nll()[0], targets, reduction, ranks)


def nt_xent_loss(
    z1: Tensor,
    z2: Tensor,
    temperature: Tensor | float,
    *,
    normalize: bool = True,
    reduction: str = "mean",
    backend: str | None = None,
    workspace_bytes: int | None = None,
    group: ProcessGroup | None = None,
    strategy: str = "auto",
    gradient_reduction: str = "mean",
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
    ranks = across(group, strategy, gradient_reduction)
    name = requested(backend, views, views, reduction == "mean", ranks.group)
    if name == SINGLE:
        return single.softmax_mean(views, None, scale, False, normalize)
    if name == "reference":
        return _reduce(reference.nt_xent_nll(reference.logits(views, views, scale, normalize)), None, reduction, ranks)
    partner = torch.arange(views.shape[0], device=views.device).roll(z1.shape[0])
    call = Softmax(views, None, scale, partner, False, normalize, workspace_bytes, name, ranks)
    return call.mean()[0] if reduction == "mean" else _reduce(call.nll()[0], None, reduction, ranks)


def siglip_loss(
    image_features: Tensor,
    text_features: Tensor,
    logit_scale: Tensor | float,
    logit_bias: Tensor | float,
    *,
    normalize: bool = False,
    reduction: str = "mean",
    backend: str | None = None,
    workspace_bytes: int | None = None,
    group: ProcessGroup | None = None,
    strategy: str = "auto",
    gradient_reduction: str = "mean",
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
    ranks = across(group, strategy, gradient_reduction)
    name = requested(backend, image_features, text_features, reduction == "mean", ranks.group)
    if name == SINGLE:
        return single.sigmoid_mean(image_features, text_features, scale, bias, normalize)
    if name == "reference":
        nll = reference.siglip_nll(reference.logits(image_features, text_features, scale, normalize) + bias)
        return _reduce(nll, None, reduction, ranks)
    inputs = (image_features, text_features, scale, bias)
    wants = [_needs_grad(x) for x in inputs]
    end = (*wants, workspace_bytes, name, ranks.group, ranks.strategy)
    if reduction != "mean":
        return _reduce(ops.sigmoid_nll(*inputs, normalize, *end)[0], None, reduction, ranks)
    return ranks.total(ops.sigmoid_mean(*inputs, normalize, *end)[0])


def _needs_grad(x: Tensor | None) -> bool:
    return x is not None and x.requires_grad and torch.is_grad_enabled()


class Softmax(NamedTuple):
    """Arguments of the softmax operators, in their order."""

    rows: Tensor
    cols: Tensor | None
    scale: Tensor
    targets: Tensor | None
    both: bool
    normalize: bool
    workspace_bytes: int | None
    backend: str
    across: Across

    def mean(self, stats: bool = False) -> tuple[Tensor, Tensor]:
        """The mean over all lines, and their state."""
        if not self.rows.is_cpu or self.across.group:
            # No exponentials are kept there, so that gradients at once would save nothing and hold memory through the step.
            nll, state = self.nll(stats)
            return _mean(nll, self.targets, 2 if self.both else 1, self.across), state
        *inputs, workspace_bytes, backend, _ = self
        loss, _, _, _, state = ops.softmax_mean(*inputs, stats, *self._wants(), workspace_bytes, backend)
        return loss, state

    def nll(self, stats: bool = False) -> tuple[Tensor, Tensor]:
        """The loss of every line, and their state."""
        *inputs, workspace_bytes, backend, (group, strategy, _) = self
        return ops.softmax_nll(*inputs, stats, *self._wants(), workspace_bytes, backend, group, strategy)[:2]

    def _wants(self) -> list[bool]:
        return [_needs_grad(x) for x in (self.rows, self.cols, self.scale)]


def _mean(nll: Tensor, targets: Tensor | None, directions: int, across: Across) -> Tensor:
    """Over the lines that have a positive; the others' losses are 0."""
    if targets is None and not across.group:
        return nll.mean()
    lines = nll.new_full((), nll.shape[0]) if targets is None else (targets != IGNORE_INDEX).sum() * directions
    total, count = across.total(torch.stack([nll.sum().double(), lines.double()])).unbind()
    if targets is not None and targets.is_cpu and not torch.compiler.is_compiling():
        number_of_pairs(int(count))  # 0 pairs are NaN where the host must not look, or cannot
    return (total / count).to(nll.dtype)


def _reduce(nll: Tensor, targets: Tensor | None, reduction: str, across: Across) -> Tensor:
    if reduction == "none":
        return nll
    return across.total(nll.sum()) if reduction == "sum" else _mean(nll, targets, 1, across)


def _both_directions(nll: Tensor, m: int, targets: Tensor | None, reduction: str, across: Across) -> Tensor:
    """Reduce the losses of all lines, the M images' and then the texts'."""
    if reduction == "mean":
        return _mean(nll, targets, 2, across)
    if reduction == "sum":
        return across.total(nll.sum() / 2)
    rows, cols = nll[:m], nll[m:]
    return (rows + (cols if targets is None else _at(cols, targets))) / 2


def _at(per_col: Tensor, targets: Tensor) -> Tensor:
    """Each row's value of its target column, 0 without one."""
    return per_col[targets.clamp_min(0)].masked_fill(targets == IGNORE_INDEX, 0.0)


def _dense_clip(
    images: Tensor, texts: Tensor, scale: Tensor, targets: Tensor | None, normalize: bool, stats: bool
) -> tuple[Tensor, Tensor]:
    """The same two results as the operator: losses per line, and per line log-sum-exp, positive, largest negative."""
    match(targets, images.shape[0], texts.shape[0], True, images.device)
    z = reference.logits(images, texts, scale, normalize)
    nll = reference.clip_nll(z, targets)
    return nll, _dense_state(z.detach().double(), targets) if stats else nll


def _dense_state(z: Tensor, targets: Tensor | None) -> Tensor:
    rows = torch.arange(z.shape[0], device=z.device)
    labels = rows if targets is None else targets
    row, col = rows[labels != IGNORE_INDEX], labels[labels != IGNORE_INDEX]
    negatives, positive = z.clone(), torch.zeros_like(z)
    negatives[row, col], positive[row, col] = -torch.inf, z[row, col]
    per_direction = [torch.stack([z.logsumexp(d), positive.sum(d), negatives.amax(d)]) for d in (1, 0)]
    return torch.cat(per_direction, 1)


@torch.no_grad()
def _stats(state: Tensor, m: int, targets: Tensor | None, bias: Tensor | None, dtype: torch.dtype) -> ClipStats:
    lse, positive, best = state
    add = 0.0 if bias is None else bias.double()
    right = positive >= best
    if targets is None:
        paired, row_right, col_right = torch.ones_like(right[:m]), right[:m], right[m:]
    else:
        paired = targets != IGNORE_INDEX
        row_right, col_right = right[:m] & paired, _at(right[m:], targets)
    positives = torch.where(paired, positive[:m] + add, 0.0)
    shares = [r.sum() / paired.sum() for r in (row_right, col_right)]
    return ClipStats((lse[:m] + add).to(dtype), (lse[m:] + add).to(dtype), positives.to(dtype), *shares)
