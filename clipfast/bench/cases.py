"""What is compared: the dense loss as its users write it, eager and compiled, and each usable backend."""

from __future__ import annotations

import functools
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from clipfast.backends.registry import backends
from clipfast.losses import clip_loss, info_nce_loss, nt_xent_loss, siglip_loss
from clipfast.sweep.pairs import compute_dtype

Loss = Callable[[Tensor, Tensor, Tensor], Tensor]

FLOPS = {"clip": 8, "siglip": 6, "info_nce": 6, "nt_xent": 16}
"""Floor of forward + backward in units of N^2 D operations (nt_xent: one triangle of 2N x 2N)."""

EAGER_MATRICES, COMPILED_MATRICES = 5, 3
"""Matrices of logits that must fit for a dense loss to be run: what it was seen to hold at its peak, and one to spare."""


def dense_clip(a: Tensor, b: Tensor, scale: Tensor) -> Tensor:
    logits = scale * a @ b.t()
    labels = torch.arange(a.shape[0], device=a.device)
    return (F.cross_entropy(logits, labels) + F.cross_entropy(logits.t(), labels)) / 2


def dense_info_nce(a: Tensor, b: Tensor, scale: Tensor) -> Tensor:
    return F.cross_entropy(scale * a @ b.t(), torch.arange(a.shape[0], device=a.device))


def dense_siglip(a: Tensor, b: Tensor, scale: Tensor) -> Tensor:
    logits = scale * a @ b.t() - 10.0
    labels = 2 * torch.eye(a.shape[0], dtype=logits.dtype, device=a.device) - 1
    return -F.logsigmoid(labels * logits).sum() / a.shape[0]


def dense_nt_xent(a: Tensor, b: Tensor, scale: Tensor) -> Tensor:
    z = torch.cat([a, b])
    n = z.shape[0]
    logits = (scale * z @ z.t()).masked_fill(torch.eye(n, dtype=torch.bool, device=z.device), -torch.inf)
    return F.cross_entropy(logits, torch.arange(n, device=z.device).roll(n // 2))


DENSE: dict[str, Loss] = {
    "clip": dense_clip,
    "info_nce": dense_info_nce,
    "siglip": dense_siglip,
    "nt_xent": dense_nt_xent,
}


def fused(loss: str, backend: str | None, workspace_bytes: int | None) -> Loss:
    """The library's loss with one backend forced, or with None the one that it chooses."""
    calls: dict[str, Callable[..., Any]] = {
        "clip": clip_loss,
        "info_nce": info_nce_loss,
        "siglip": lambda a, b, s, **options: siglip_loss(a, b, s, -10.0, **options),
        "nt_xent": lambda a, b, s, **options: nt_xent_loss(a, b, 1 / s, normalize=False, **options),
    }
    return functools.partial(calls[loss], backend=backend, workspace_bytes=workspace_bytes)


@dataclass
class Case:
    """One contender, skipped where ``matrices`` matrices of logits do not fit in memory."""

    name: str
    loss: Loss
    matrices: int = 0


def cases(loss: str, compiled: bool = True, workspace_bytes: int | None = None) -> list[Case]:
    """Every contender for ``loss`` on this machine."""
    found = [Case("dense eager", DENSE[loss], EAGER_MATRICES)]
    if compiled:
        found.append(Case("dense compiled", torch.compile(DENSE[loss]), COMPILED_MATRICES))
    usable = [name for name, reason in backends().items() if reason is None and name in ("cpu", "torch")]
    return found + [Case(f"clipfast {name}", fused(loss, name, workspace_bytes)) for name in usable]


def features(n: int, dim: int, dtype: torch.dtype, seed: int = 0) -> tuple[Tensor, Tensor, Tensor]:
    """Normalised random features (n, dim) twice and CLIP's initial scale, all asking for gradients."""
    generator = torch.Generator().manual_seed(seed)
    a, b = (F.normalize(torch.randn(n, dim, generator=generator), dim=1).to(dtype) for _ in range(2))
    scale = torch.tensor(1 / 0.07, dtype=compute_dtype(dtype) if dtype == torch.float64 else dtype)
    return a.requires_grad_(), b.requires_grad_(), scale.requires_grad_()
