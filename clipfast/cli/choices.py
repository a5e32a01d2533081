"""Options whose accepted values are declared elsewhere."""

from __future__ import annotations

from typing import Any

import typer

from clipfast.losses.clip import CLIP
from clipfast.losses.declaration import LOSSES, named

DEFAULT_LOSS = CLIP.name


def loss_name(value: str) -> str:
    """``value``, if the catalogue has a loss of that name when the command runs."""
    try:
        return named(value).name
    except ValueError as error:
        raise typer.BadParameter(str(error)) from error


LOSS: Any = typer.Option(help="Which loss.", parser=loss_name, metavar=f"<{'|'.join(LOSSES)}>")
