"""The dense definitions: the specification that every backend is tested against, in ten lines each.

They form the whole matrix of logits and leave the gradients to autograd, in the dtype of their arguments. The
positive stays out of the log-sum-exp: ``-log p = softplus(lse of the negatives - positive)`` equals the textbook's
``lse - positive`` and keeps its precision when p is close to 1 (tests compare the two in float64).

Small batches, where no memory is to be saved, run them in production too: see ``registry.SMALL``.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from clipfast.sweep.pairs import IGNORE_INDEX, compute_dtype


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
        return nll(z.masked_fill(_eye(z), -torch.inf), z.diagonal())
    targets = torch.arange(z.shape[0], device=z.device) if targets is None else targets
    column = targets.clamp_min(0).unsqueeze(1)
    per_row = nll(z.scatter(1, column, -torch.inf), z.gather(1, column).squeeze(1))
    return per_row.masked_fill(targets == IGNORE_INDEX, 0.0)


def clip_nll(z: Tensor, targets: Tensor | None) -> Tensor:
    """Both directions of CLIP's loss: the rows' and then the columns', 0 where there is no positive: (M + N,)."""
    if targets is None:
        # Adding to the diagonal costs a small batch less than masking it; -inf would make NaN of a row without negatives.
        away = z.new_full((z.shape[0],), torch.finfo(z.dtype).min / 2).diag()
        negatives, positive = z + away, z.diagonal()
        gaps = torch.cat([negatives.logsumexp(1) - positive, negatives.logsumexp(0) - positive])
        return F.softplus(gaps, threshold=40)
    return torch.cat([cross_entropy(z, targets), cross_entropy(z.t(), inverse(targets, z.shape[1]))])


def inverse(targets: Tensor, n: int) -> Tensor:
    """The row whose target each column is, -100 where there is none: (N,)."""
    back = torch.full((n,), IGNORE_INDEX, device=targets.device)
    paired = targets != IGNORE_INDEX
    back[targets[paired]] = paired.nonzero().squeeze(1)
    return back


def nt_xent_nll(z: Tensor) -> Tensor:
    """SimCLR (Chen et al., 2020, equation 1) from the logits of 2N views, of which i and i + N belong together: (2N,)."""
    targets = torch.arange(z.shape[0], device=z.device).roll(z.shape[0] // 2)
    return cross_entropy(z.masked_fill(_eye(z), -torch.inf), targets)


def siglip_nll(z: Tensor) -> Tensor:
    """Each row's ``-sum_j log sigmoid(y_ij z_ij)``, y 1 on the diagonal and -1 elsewhere: (N,)."""
    return F.softplus(torch.where(_eye(z), -z, z), threshold=40).sum(1)


def _eye(z: Tensor) -> Tensor:
    return torch.eye(z.shape[0], dtype=torch.bool, device=z.device)
