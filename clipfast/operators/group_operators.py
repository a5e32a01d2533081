"""A process group as the operators take it, and the sum over its ranks as an operator with a gradient."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, NamedTuple

import torch
from torch import Tensor

from clipfast.common.argument_checks import check_choice
from clipfast.distributed.blocks import STRATEGIES
from clipfast.operators.registration import define, ops

if TYPE_CHECKING:
    import torch.distributed as dist

GRADIENT_REDUCTIONS = ("mean", "sum")


class GroupOptions(NamedTuple):
    """The group by name, "" for this process alone; how columns travel in it; ``factor`` multiplies ``total``'s gradient."""

    group: str = ""
    strategy: str = "auto"
    factor: int = 1

    def total(self, share: Tensor) -> Tensor:
        """The sum of all ranks' shares of a value, which every rank gets."""
        return ops.group_sum(share, self.group, self.factor) if self.group else share


def group_options(group: dist.ProcessGroup | None, strategy: str, gradient_reduction: str) -> GroupOptions:
    """The checked arguments of a public loss. A group of one rank is this process alone."""
    check_choice("strategy", strategy, STRATEGIES)
    check_choice("gradient_reduction", gradient_reduction, GRADIENT_REDUCTIONS)
    if group is None:
        return GroupOptions()
    if not hasattr(group, "group_name"):
        raise TypeError(
            "group must be a torch.distributed ProcessGroup that this process belongs to, such as a DeviceMesh's get_group() "
            "or, after init_process_group, torch.distributed.group.WORLD; or None for this process alone; got "
            f"{type(group).__name__}"
        )
    ranks = group.size()
    if ranks == 1:
        return GroupOptions()
    return GroupOptions(group.group_name, strategy, ranks if gradient_reduction == "mean" else 1)


def _group_sum(share: Tensor, group: str, factor: int) -> Tensor:
    from clipfast.distributed.group import named, reduced  # needs torch.distributed, which some builds lack

    return reduced(named(group), share)


def _setup(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
    ctx.factor = inputs[2]


def _backward(ctx: Any, grad: Tensor) -> tuple[Any, ...]:
    """The upstream gradient times the number of ranks, or 1."""
    return grad * ctx.factor, None, None


torch.library.register_autograd(
    define(
        "group_sum(Tensor share, str group, int factor) -> Tensor",
        _group_sum,
        lambda share, group, factor: torch.empty_like(share),
    ),
    _backward,
    setup_context=_setup,
)
