"""Other projects' code, loaded for comparison without what this environment does not have."""

from __future__ import annotations

import importlib.util
from functools import cache
from pathlib import Path
from types import ModuleType

import pytest
import torch


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
    """``torchvision.transforms``. Its wheel's operators are for CUDA builds of torch: their shapes are not registered."""
    register = torch.library.register_fake

    def passing_over(name, *arguments, **options):
        return (lambda f: f) if str(name).startswith("torchvision::") else register(name, *arguments, **options)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(torch.library, "register_fake", passing_over)
        return pytest.importorskip("torchvision.transforms", exc_type=ImportError)
