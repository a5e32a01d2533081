"""What is compared: the dense loss as its users write it, eager and compiled, and each usable backend."""

from __future__ import annotations

import functools
from collections.abc import Callable
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from clipfast.common.dtypes import compute_dtype
from clipfast.compute.registry import backends
from clipfast.losses.declaration import named

LossOfScale = Callable[[Tensor, Tensor, Tensor], Tensor]

EAGER_MATRICES, COMPILED_MATRICES = 5, 3
"""Matrices of logits that must fit for a dense loss to be run: what it was seen to hold at its peak, and one to spare."""
SWEEPS_ON_CPU = ("cpu", "torch")


def fused(loss: str, backend: str | None = None, workspace_bytes: int | None = None) -> LossOfScale:
    """The library's loss with one backend forced, or with None the one that it chooses."""
    return functools.partial(named(loss).fused, backend=backend, workspace_bytes=workspace_bytes)


@dataclass
class Case:
    """One contender, skipped where ``matrices`` matrices of logits do not fit in memory."""

    name: str
    loss: LossOfScale
    matrices: int = 0


def cases(loss: str, compiled: bool = True, workspace_bytes: int | None = None) -> list[Case]:
    """Every contender for ``loss`` on this machine."""
    textbook = named(loss).textbook
    found = [Case("dense eager", textbook, EAGER_MATRICES)]
    if compiled:
        found.append(Case("dense compiled", torch.compile(textbook), COMPILED_MATRICES))
    usable = [name for name, reason in backends().items() if reason is None and name in SWEEPS_ON_CPU]
    return found + [Case(f"clipfast {name}", fused(loss, name, workspace_bytes)) for name in usable]


def features(n: int, dim: int, dtype: torch.dtype, seed: int = 0) -> tuple[Tensor, Tensor, Tensor]:
    """Normalised random features (n, dim) twice and CLIP's initial scale, all asking for gradients."""
    generator = torch.Generator().manual_seed(seed)
    a, b = (F.normalize(torch.randn(n, dim, generator=generator), dim=1).to(dtype) for _ in range(2))
    scale = torch.tensor(1 / 0.07, dtype=compute_dtype(dtype) if dtype == torch.float64 else dtype)
    return a.requires_grad_(), b.requires_grad_(), scale.requires_grad_()
