"""Options whose accepted values are declared elsewhere."""

from __future__ import annotations

from typing import Any

import typer

from clipfast.losses.declaration import LOSSES


def loss_name(value: str) -> str:
    """A loss of the catalogue, as it is when the command runs."""
    if value not in LOSSES:
        raise typer.BadParameter(f"must be one of {', '.join(LOSSES)}; got {value!r}")
    return value


LOSS: Any = typer.Option(help="Which loss.", parser=loss_name, metavar=f"[{'|'.join(LOSSES)}]")
