"""Who is whose positive: ``targets`` as the losses take them, checked, and their inverse."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

IGNORE_INDEX = -100  # as in torch.nn.functional.cross_entropy


class Matching(NamedTuple):
    """``col_of_row`` (M,) is the column of each row's positive and ``row_of_col`` (N,) its inverse, -1 for none.

    Both are None where row i belongs to column i; ``row_of_col`` alone where several rows may share a column.
    """

    col_of_row: Tensor | None = None
    row_of_col: Tensor | None = None


def match(targets: Tensor | None, m: int, n: int, unique: bool, device: torch.device) -> Matching:
    """The matching of ``targets`` between M rows and N columns; with ``unique`` a column has one row at most.

    Wrong targets are a ValueError on the CPU and an asynchronous assertion on an accelerator, as in torch's own losses:
    the host does not wait to look at them.
    """
    if targets is None:
        if m == n:
            return Matching()
        targets = torch.arange(m, device=device)
    ignored = targets == IGNORE_INDEX
    _check_inside(targets, ignored | ((targets >= 0) & (targets < n)), n)
    col_of_row = targets.masked_fill(ignored, -1)
    if not unique:
        return Matching(col_of_row)
    row_of_col = inverse(col_of_row, n)
    own = row_of_col[col_of_row.clamp_min(0)] == torch.arange(m, device=device)
    _check_unique(ignored | own)
    return Matching(col_of_row, row_of_col)


def inverse(col_of_row: Tensor, n: int) -> Tensor:
    """The row that belongs to each column, -1 where there is none: (N,)."""
    row_of_col = col_of_row.new_full((n + 1,), -1)  # the last place takes the rows without a column
    rows = torch.arange(col_of_row.shape[0], device=col_of_row.device)
    return row_of_col.scatter_(0, torch.where(col_of_row < 0, n, col_of_row), rows)[:n]


def other_view(views: int, device: torch.device | None = None) -> Tensor:
    """NT-Xent's matching among its 2N views: i and i + N belong together (2N,)."""
    return torch.arange(views, device=device).roll(views // 2)


def number_of_pairs(count: int) -> int:
    """``count`` itself; ValueError where there is nothing to average over."""
    if count == 0:
        raise ValueError(
            f"targets must name a column for one row at least; got {IGNORE_INDEX} everywhere, and a mean over no pairs is "
            "undefined; skip the batch or use reduction='sum'"
        )
    return count


def _check_inside(targets: Tensor, inside: Tensor, n: int) -> None:
    if targets.device.type != "cpu":
        torch._assert_async(inside.all(), f"clipfast: targets must be in [0, {n}) or {IGNORE_INDEX}")
    elif not bool(inside.all()):
        row = int((~inside).nonzero()[0])
        raise ValueError(f"targets must be columns in [0, {n}) or {IGNORE_INDEX}; got targets[{row}] = {int(targets[row])}")


def _check_unique(own: Tensor) -> None:
    message = (
        "targets must name each column once at most, since the columns' direction has one positive; got a column for two "
        "rows; use info_nce_loss for one direction"
    )
    if own.device.type != "cpu":
        torch._assert_async(own.all(), message)
    elif not bool(own.all()):
        raise ValueError(message)
