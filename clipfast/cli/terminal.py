"""The terminal of all commands: where they print, and how they end on an error."""

from __future__ import annotations

from typing import NoReturn

import typer
from rich.console import Console
from rich.markup import escape

console = Console()


def stop(error: Exception) -> NoReturn:
    """Print the error in one line and end the command with exit status 1."""
    console.print(f"[red]{escape(str(error))}[/red]", soft_wrap=True)
    raise typer.Exit(1) from error
