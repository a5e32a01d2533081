"""Other projects' fused losses behind one signature, where they are installed: (features, features, scale) -> loss."""

from __future__ import annotations

import functools
import importlib
import importlib.util
from collections.abc import Callable
from pathlib import Path
from types import ModuleType

from torch import Tensor

from clipfast.bench.cases import TEMPERATURE, LossOfScale
from clipfast.losses.clip import CLIP
from clipfast.losses.siglip import BIAS, SIGLIP


@functools.cache
def file_of_package(package: str, file: str, project: str) -> ModuleType:
    """One file of an installed package as a module, without importing the package and all that it needs.

    ModuleNotFoundError, which names the ``project`` to install, where there is no such package.
    """
    found = importlib.util.find_spec(package)
    if found is None or not found.submodule_search_locations:
        raise ModuleNotFoundError(f"{project} is not installed: pip install --no-deps {project}", name=package)
    path = Path(found.submodule_search_locations[0]) / file
    spec = importlib.util.spec_from_file_location(f"{package}_{path.stem}", path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def open_clip_losses() -> ModuleType:
    """open_clip's loss.py, which needs torch alone. The package needs torchvision, whose CUDA wheel does not load beside a
    CPU build of torch."""
    return file_of_package("open_clip", "loss.py", "open_clip_torch")


def _memeff() -> LossOfScale:
    module = importlib.import_module("memeff")

    def loss(a: Tensor, b: Tensor, scale: Tensor) -> Tensor:
        # Its temperature is a Python number, and stable=False asks for the gradient of the definition.
        return module.MemoryEfficientCLIPLoss(temperature=TEMPERATURE, normalized_inputs=True, stable=False)(a, b)

    return loss


def _inf_cl() -> LossOfScale:
    module = importlib.import_module("inf_cl")

    def loss(a: Tensor, b: Tensor, scale: Tensor) -> Tensor:
        """CLIP's, in two calls: each gives one direction."""
        return (module.cal_flash_loss(a, b, scale=scale).mean() + module.cal_flash_loss(b, a, scale=scale).mean()) / 2

    return loss


def _siglip_kernel() -> LossOfScale:
    module = importlib.import_module("siglip_kernel")

    def loss(a: Tensor, b: Tensor, scale: Tensor) -> Tensor:
        return module.fused_siglip_loss(a, b, scale.log(), scale.new_full((), BIAS))

    return loss


PEERS: dict[str, dict[str, tuple[str, Callable[[], LossOfScale]]]] = {
    CLIP.name: {"memeff": ("memeff", _memeff), "inf-cl": ("inf_cl", _inf_cl)},
    SIGLIP.name: {"siglip-kernel": ("siglip_kernel", _siglip_kernel)},
}
"""Loss -> project -> (the module to import, what makes its loss)."""


def peers(loss: str) -> dict[str, LossOfScale]:
    """The installed projects' versions of ``loss``, by project."""
    return {
        name: make() for name, (module, make) in PEERS.get(loss, {}).items() if importlib.util.find_spec(module) is not None
    }
