"""From the arguments ``group``, ``strategy`` and ``gradient_reduction`` of a loss to the exchange of its sweeps."""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

import torch
from torch import Tensor

from clipfast.distributed.exchange import Alone, Exchange
from clipfast.sweep.pairs import compute_dtype

if TYPE_CHECKING:
    import torch.distributed as dist

STRATEGIES = ("auto", "ring", "gather")
GRADIENT_REDUCTIONS = ("mean", "sum")
GATHER_BYTES = 256 * 2**20
"""``strategy="auto"`` gathers while all ranks' features and their accumulators take at most this much on each (256 MiB)."""


class Across(NamedTuple):
    """A process group as the operators take it, by name; "" is this process alone. ``factor`` multiplies gradients."""

    group: str = ""
    strategy: str = "auto"
    factor: int = 1

    def total(self, share: Tensor) -> Tensor:
        """The sum of all ranks' shares of a value, which every rank gets."""
        return torch.ops.clipfast.group_sum(share, self.group, self.factor) if self.group else share


def across(group: dist.ProcessGroup | None, strategy: str, gradient_reduction: str) -> Across:
    """The checked arguments of a public loss. A group of one rank is this process alone."""
    if strategy not in STRATEGIES:
        raise ValueError(f"strategy={strategy!r} is unknown; accepted: {', '.join(STRATEGIES)}")
    if gradient_reduction not in GRADIENT_REDUCTIONS:
        accepted = ", ".join(GRADIENT_REDUCTIONS)
        raise ValueError(f"gradient_reduction={gradient_reduction!r} is unknown; accepted: {accepted}")
    if group is None:
        return Across()
    if not hasattr(group, "group_name"):
        raise TypeError(
            "group must be a torch.distributed ProcessGroup that this process belongs to, such as a DeviceMesh's get_group() "
            "or, after init_process_group, torch.distributed.group.WORLD; or None for this process alone; got "
            f"{type(group).__name__}"
        )
    ranks = group.size()
    if ranks == 1:
        return Across()
    return Across(group.group_name, strategy, ranks if gradient_reduction == "mean" else 1)


def connect(
    group: str,
    strategy: str,
    rows: Tensor,
    cols: Tensor,
    call: str = "",
    options: dict[str, float] | None = None,
    scalars: dict[str, Tensor] | None = None,
    sizes: Tensor | None = None,
) -> Exchange:
    """The exchange of a ``call`` over the ranks of ``group``. Its ``options`` and ``scalars`` must be equal on all of them.

    ``sizes`` of an earlier call stand for the comparison.
    """
    if not group:
        return Alone(rows.shape[0], cols.shape[0])
    from clipfast.distributed.gather import Gather
    from clipfast.distributed.group import compare, named
    from clipfast.distributed.ring import Ring

    members, known = named(group), sizes is not None
    if sizes is None:
        mine = {"rows": rows.shape[0], "cols": cols.shape[0], "width": rows.shape[1]}
        mine[f"strategy (an index of {STRATEGIES})"] = STRATEGIES.index(strategy)
        on_host = {name: float(x) for name, x in (scalars or {}).items()} if rows.is_cpu else {}
        sizes = compare(members, call, {**mine, **(options or {}), **on_host}, rows.device)
    gathered = members.size() * int(sizes[1].max()) * rows.shape[1] * (rows.element_size() + compute_dtype(rows.dtype).itemsize)
    few = strategy == "gather" or (strategy == "auto" and gathered <= GATHER_BYTES)
    exchange: Exchange = (Gather if few else Ring)(members, sizes)
    if scalars and not known and not rows.is_cpu:
        _assert_equal(exchange, torch.stack([x.double() for x in scalars.values()]), ", ".join(scalars))
    return exchange


def _assert_equal(exchange: Exchange, values: Tensor, names: str) -> None:
    """On an accelerator, where the host does not look at them."""
    highest, lowest = exchange.largest(torch.cat([values, -values])).chunk(2)
    torch._assert_async(((highest == -lowest) | values.isnan()).all(), f"clipfast: the ranks' calls differ in {names}")


def group_sum(share: Tensor, group: str) -> Tensor:
    from clipfast.distributed.group import named, reduced

    return reduced(named(group), share)


def ranks(group: str) -> int:
    from clipfast.distributed.group import named

    return named(group).size()
