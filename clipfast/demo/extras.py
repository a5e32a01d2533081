"""The demo's optional packages, asked for when they are needed and named when they are missing."""

from __future__ import annotations

from importlib import import_module
from importlib.util import find_spec
from pathlib import Path
from types import ModuleType


def _missing(package: str) -> ImportError:
    return ImportError(f"the demo needs {package}, which is not installed: pip install 'clipfast[demo]'", name=package)


def require(module: str, package: str | None = None) -> ModuleType:
    """Import ``module`` (of ``package``, where the two names differ), or say how to install it."""
    try:
        return import_module(module)
    except ImportError as error:
        raise _missing(package or module.partition(".")[0]) from error


def folder_of(package: str) -> Path:
    """Where ``package``'s files are, without running its code: iconipy imports window toolkits that may be absent."""
    spec = find_spec(package)
    if spec is None or not spec.submodule_search_locations:
        raise _missing(package)
    return Path(next(iter(spec.submodule_search_locations)))


def check_installed() -> None:
    """Fail before the training rather than after it."""
    folder_of("iconipy")
    for module, package in (("PIL.ImageFont", "pillow"), ("matplotlib", None), ("rich", None)):
        require(module, package)
