"""What is compared: the dense loss as its users write it, eager and compiled, and each usable backend."""

from __future__ import annotations

import functools
from collections.abc import Callable
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from clipfast.common.dtypes import compute_dtype
from clipfast.compute.registry import backends, declarations
from clipfast.losses.declaration import named

LossOfScale = Callable[[Tensor, Tensor, Tensor], Tensor]

EAGER_MATRICES, COMPILED_MATRICES = 5, 3
"""Matrices of logits that must fit for a dense loss to be run: what it was seen to hold at its peak, and one to spare."""
TEMPERATURE = 0.07
"""CLIP's initial one."""


def fused(loss: str, backend: str | None = None, workspace_bytes: int | None = None) -> LossOfScale:
    """The library's loss with one backend forced; None: with the one that the library chooses."""
    return functools.partial(named(loss).fused, backend=backend, workspace_bytes=workspace_bytes)


@dataclass
class Case:
    """One contender; it is skipped where memory does not hold ``matrices`` matrices of logits."""

    name: str
    loss: LossOfScale
    matrices: int = 0


def cases(loss: str, compiled: bool = True, workspace_bytes: int | None = None) -> list[Case]:
    """Every contender for ``loss`` on this machine."""
    textbook = named(loss).textbook
    found = [Case("dense eager", textbook, EAGER_MATRICES)]
    if compiled:
        found.append(Case("dense compiled", torch.compile(textbook), COMPILED_MATRICES))
    usable = backends()
    swept = [backend.name for backend in declarations() if "cpu" in backend.chosen_on and usable[backend.name] is None]
    return found + [Case(f"clipfast {name}", fused(loss, name, workspace_bytes)) for name in swept]


def features(n: int, dim: int, dtype: torch.dtype, seed: int = 0) -> tuple[Tensor, Tensor, Tensor]:
    """Normalised random features, (n, dim) each, and CLIP's initial scale; all ask for gradients."""
    generator = torch.Generator().manual_seed(seed)
    a, b = (F.normalize(torch.randn(n, dim, generator=generator), dim=1).to(dtype) for _ in range(2))
    scale = torch.tensor(1 / TEMPERATURE, dtype=compute_dtype(dtype) if dtype == torch.float64 else dtype)
    return a.requires_grad_(), b.requires_grad_(), scale.requires_grad_()
