"""NT-Xent: a cross-entropy among the views of all samples."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import torch
import torch.nn.functional as F
from torch import Tensor

from clipfast.losses import arguments, dispatch
from clipfast.losses.declaration import Loss, VectorBytes, declare
from clipfast.losses.dense import cross_entropy, diagonal
from clipfast.losses.options import LossOptions, documented
from clipfast.operators.record import Inputs
from clipfast.operators.softmax_family import SoftmaxFamily
from clipfast.sweep.targets import other_view

if TYPE_CHECKING:
    from typing_extensions import Unpack


def dense(z: Tensor, targets: Tensor | None) -> Tensor:
    """The definition, from the logits of 2N views, of which i and i + N belong together: (2N,)."""
    return cross_entropy(z.masked_fill(diagonal(z), -torch.inf), other_view(z.shape[0], z.device))


def textbook(a: Tensor, b: Tensor, scale: Tensor) -> Tensor:
    z = torch.cat([a, b])
    n = z.shape[0]
    logits = (scale * z @ z.t()).masked_fill(torch.eye(n, dtype=torch.bool, device=z.device), -torch.inf)
    return F.cross_entropy(logits, torch.arange(n, device=z.device).roll(n // 2))


def fused(a: Tensor, b: Tensor, scale: Tensor, **options: Any) -> Any:
    return nt_xent_loss(a, b, 1 / scale, **{"normalize": False, **options})


NT_XENT = declare(
    Loss(
        name="nt_xent",
        summary="cross-entropy among two views of each sample (SimCLR)",
        sides=("z1", "z2"),
        family=SoftmaxFamily(),
        dense=dense,
        textbook=textbook,
        fused=fused,
        vector_bytes=VectorBytes(252, 144, closing=(32, 20)),
        views=2,
        defaults={"normalize": True},
    )
)


@documented(NT_XENT.defaults)
def nt_xent_loss(z1: Tensor, z2: Tensor, temperature: Tensor | float, **options: Unpack[LossOptions]) -> Tensor:
    """SimCLR's NT-Xent (Chen et al., 2020, equation 1) over the 2N views of N samples. It replaces::

        z = F.normalize(torch.cat([z1, z2]), dim=1)
        logits = (z @ z.T / temperature).masked_fill(torch.eye(2 * N, dtype=torch.bool), -torch.inf)
        F.cross_entropy(logits, torch.arange(2 * N).roll(N))

    ``z1`` and ``z2`` (N, D): the two views of sample i are rows i. ``temperature`` divides the similarities.
    The scores are symmetric: one triangle of the tiles is computed, half the work. ``reduction="none"`` gives (2N,),
    the losses of ``z1``'s views and then of ``z2``'s.

    >>> views = torch.eye(4)
    >>> nt_xent_loss(views, views, temperature=0.1)
    tensor(0.0003)
    """
    first, second, checked = dispatch.features(NT_XENT, z1, z2, None, options)
    arguments.same_number(first, second, NT_XENT.sides, "each sample needs its two views")
    scale = arguments.number(temperature, first, "temperature").reciprocal()
    inputs = Inputs(torch.cat([first, second]), None, scale, None, None)
    return dispatch.evaluate(dispatch.Call(NT_XENT, inputs, checked)).value
