"""What the commands share on a terminal: where they print, and how they end when they cannot go on."""

from __future__ import annotations

from typing import NoReturn

import typer
from rich.console import Console
from rich.markup import escape

console = Console()


def stop(error: Exception) -> NoReturn:
    """The error in one line, and exit status 1."""
    console.print(f"[red]{escape(str(error))}[/red]", soft_wrap=True)
    raise typer.Exit(1) from error
