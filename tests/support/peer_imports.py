"""Makes other projects' packages importable beside a CPU build of torch. As a script: runs a program with one of them."""

from __future__ import annotations

import importlib
import importlib.util
import runpy
import sys
import types
from collections.abc import Iterator
from contextlib import contextmanager
from types import ModuleType
from typing import Any

import torch


@contextmanager
def importable() -> Iterator[None]:
    """Work around two obstacles: the fake kernels in torchvision's CUDA wheel have no operators beside a CPU build of torch,
    and OpenAI's package imports pkg_resources, which newer versions of setuptools do not have."""
    original = torch.library.register_fake

    def without_torchvision(op: Any, *args: Any, **kwargs: Any) -> Any:
        if isinstance(op, str) and op.startswith("torchvision::"):
            return lambda function: function
        return original(op, *args, **kwargs)

    torch.library.register_fake = without_torchvision
    lacking = importlib.util.find_spec("pkg_resources") is None
    if lacking:
        sys.modules["pkg_resources"] = types.SimpleNamespace(packaging=importlib.import_module("packaging"))
        importlib.import_module("packaging.version")
    try:
        yield
    finally:
        torch.library.register_fake = original
        if lacking:
            del sys.modules["pkg_resources"]


def load(name: str) -> ModuleType:
    """Import a peer; ImportError or AttributeError if that fails."""
    with importable():
        if importlib.util.find_spec("torchvision") is not None:
            importlib.import_module("torchvision")  # other packages would import it later, at an attribute's first use
        return importlib.import_module(name)


def peer(name: str) -> ModuleType:
    """Import a peer, or skip the test with the reason."""
    import pytest  # a program run by this script has no use for it

    try:
        return load(name)
    except (ImportError, AttributeError) as error:
        pytest.skip(f"{name} is not usable here (the extra 'peers'): {error}")


if __name__ == "__main__":
    load(sys.argv[1])
    sys.argv = sys.argv[2:]
    runpy.run_path(sys.argv[0], run_name="__main__")
