"""Optional packages, imported when they are needed, with an error that says what to install."""

from __future__ import annotations

from importlib import import_module
from types import ModuleType


def require(module: str, purpose: str, package: str | None = None, extra: str = "models") -> ModuleType:
    """Import ``module`` (of ``package``, where the two names differ), or say what needs it and how to install it."""
    try:
        return import_module(module)
    except ModuleNotFoundError as error:
        package = package or module.partition(".")[0]
        raise ModuleNotFoundError(
            f"{purpose} needs {package}, which is not installed: pip install {package}, or pip install 'clipfast[{extra}]'",
            name=package,
        ) from error
