"""What the dense definitions share. Each loss's own is in its file: the specification that every backend is tested against.

They form the whole matrix of logits and leave the gradients to autograd, in the dtype of their arguments. The
positive stays out of the log-sum-exp: ``-log p = softplus(lse of the negatives - positive)`` equals the textbook's
``lse - positive`` and keeps its precision when p is close to 1 (tests compare the two in float64).

Small batches, where no memory is to be saved, run them in production too: see ``dispatch.route``.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from clipfast.common.dtypes import compute_dtype
from clipfast.sweep.targets import IGNORE_INDEX


def logits(rows: Tensor, cols: Tensor, scale: Tensor | float, normalize: bool) -> Tensor:
    """``scale * rows @ cols.T`` of the rows, normalised if asked, in float32 or wider: (M, N)."""
    dtype = compute_dtype(rows.dtype)
    with torch.autocast(rows.device.type, enabled=False):
        same, rows = cols is rows, rows.to(dtype)
        cols = rows if same else cols.to(dtype)  # cast once: autograd would round each cast's gradient, then their sum
        if normalize:
            rows, cols = F.normalize(rows, dim=1), F.normalize(cols, dim=1)
        return scale * (rows @ cols.t())


def nll(negatives: Tensor, positive: Tensor) -> Tensor:
    """``-log(exp(positive) / (exp(positive) + sum exp(negatives)))`` of each row (M,); -inf marks what is no negative."""
    return F.softplus(negatives.logsumexp(1) - positive, threshold=40)


def cross_entropy(z: Tensor, targets: Tensor | None) -> Tensor:
    """``F.cross_entropy(z, targets, reduction="none")``: (M,), 0 where the target is -100; None: the diagonal."""
    if targets is None and z.shape[0] == z.shape[1]:
        return nll(z.masked_fill(diagonal(z), -torch.inf), z.diagonal())
    targets = torch.arange(z.shape[0], device=z.device) if targets is None else targets
    column = targets.clamp_min(0).unsqueeze(1)
    per_row = nll(z.scatter(1, column, -torch.inf), z.gather(1, column).squeeze(1))
    return per_row.masked_fill(targets == IGNORE_INDEX, 0.0)


def diagonal(z: Tensor) -> Tensor:
    """True where row and column are one (N, N)."""
    return torch.eye(z.shape[0], dtype=torch.bool, device=z.device)


def state(z: Tensor, targets: Tensor | None) -> Tensor:
    """Of both directions' lines, rows first: log-sum-exp, positive logit (0 without one), largest negative (3, M + N)."""
    rows = torch.arange(z.shape[0], device=z.device)
    labels = rows if targets is None else targets
    row, col = rows[labels != IGNORE_INDEX], labels[labels != IGNORE_INDEX]
    negatives, positive = z.clone(), torch.zeros_like(z)
    negatives[row, col], positive[row, col] = -torch.inf, z[row, col]
    per_direction = [torch.stack([z.logsumexp(d), positive.sum(d), negatives.amax(d)]) for d in (1, 0)]
    return torch.cat(per_direction, 1)
