"""From a group's name to the exchange of a call's sweeps."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor

from clipfast.distributed.blocks import STRATEGIES, choose
from clipfast.distributed.exchange import Alone, Exchange


def connect(
    group: str,
    strategy: str,
    rows: Tensor,
    cols: Tensor,
    *,
    call: str = "",
    options: Mapping[str, float] | None = None,
    scalars: Mapping[str, Tensor] | None = None,
    sizes: Tensor | None = None,
) -> Exchange:
    """The exchange of a ``call`` over the ranks of ``group``. Its ``options`` and ``scalars`` must be equal on all of them.

    ``sizes``: those that the forward call found; with them nothing is compared again.
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
    columns = tuple(sizes[1].tolist())
    kind = Gather if choose(strategy, columns, rows.shape[1], rows.dtype) == "gather" else Ring
    exchange: Exchange = kind(members, sizes)
    if scalars and not known and not rows.is_cpu:
        _assert_equal(exchange, torch.stack([x.double() for x in scalars.values()]), ", ".join(scalars))
    return exchange


def _assert_equal(exchange: Exchange, values: Tensor, names: str) -> None:
    """On an accelerator, where the host does not look at them."""
    highest, lowest = exchange.largest(torch.cat([values, -values])).chunk(2)
    torch._assert_async(((highest == -lowest) | values.isnan()).all(), f"clipfast: the ranks' calls differ in {names}")


def ranks(group: str) -> int:
    from clipfast.distributed.group import named

    return named(group).size()
