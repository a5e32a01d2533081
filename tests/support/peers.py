"""Single modules of other projects, loaded for comparison without their packages' other requirements."""

from __future__ import annotations

import importlib.util
from functools import cache
from pathlib import Path
from types import ModuleType

import pytest
from peer_imports import importable


def peer_module(package: str, file: str, project: str) -> ModuleType:
    """One module of an installed package, without running the package, which would import torchvision."""
    spec = importlib.util.find_spec(package)
    path = Path(spec.submodule_search_locations[0]) / file if spec and spec.submodule_search_locations else None
    if path is None or not path.is_file():
        pytest.skip(f"{project} is not installed")
    loaded = importlib.util.spec_from_file_location(f"peer_{package}_{path.stem}", path)
    module = importlib.util.module_from_spec(loaded)
    loaded.loader.exec_module(module)
    return module


@cache
def torchvision_transforms() -> ModuleType:
    """``torchvision.transforms``, or the test is skipped."""
    with importable():
        return pytest.importorskip("torchvision.transforms", exc_type=ImportError)
