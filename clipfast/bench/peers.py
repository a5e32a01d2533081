"""Other projects' fused losses behind one signature, where they are installed: (features, features, scale) -> loss."""

from __future__ import annotations

import functools
import importlib
import importlib.util
from collections.abc import Callable
from pathlib import Path
from types import ModuleType

from torch import Tensor

Loss = Callable[[Tensor, Tensor, Tensor], Tensor]


@functools.cache
def open_clip_losses() -> ModuleType:
    """open_clip's loss.py alone, which needs nothing but torch: the package imports torchvision, whose CUDA wheel does not
    load beside a CPU build of torch. ModuleNotFoundError where open_clip is not installed."""
    package = importlib.util.find_spec("open_clip")
    if package is None or not package.submodule_search_locations:
        raise ModuleNotFoundError("open_clip_torch is not installed (the extra 'peers')", name="open_clip")
    path = Path(package.submodule_search_locations[0]) / "loss.py"
    spec = importlib.util.spec_from_file_location("open_clip_loss", path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def _memeff() -> Loss:
    module = importlib.import_module("memeff")

    def loss(a: Tensor, b: Tensor, scale: Tensor) -> Tensor:
        # Its temperature is a Python number, and stable=False asks for the gradient of the definition.
        return module.MemoryEfficientCLIPLoss(temperature=0.07, normalized_inputs=True, stable=False)(a, b)

    return loss


def _inf_cl() -> Loss:
    module = importlib.import_module("inf_cl")

    def loss(a: Tensor, b: Tensor, scale: Tensor) -> Tensor:
        """One direction a call; forward and backward of both are what CLIP needs."""
        return (module.cal_flash_loss(a, b, scale=scale).mean() + module.cal_flash_loss(b, a, scale=scale).mean()) / 2

    return loss


def _siglip_kernel() -> Loss:
    module = importlib.import_module("siglip_kernel")

    def loss(a: Tensor, b: Tensor, scale: Tensor) -> Tensor:
        return module.fused_siglip_loss(a, b, scale.log(), scale.new_full((), -10.0))

    return loss


PEERS: dict[str, dict[str, tuple[str, Callable[[], Loss]]]] = {
    "clip": {"memeff": ("memeff", _memeff), "inf-cl": ("inf_cl", _inf_cl)},
    "siglip": {"siglip-kernel": ("siglip_kernel", _siglip_kernel)},
}


def peers(loss: str) -> dict[str, Loss]:
    """The installed ones for ``loss``, by name."""
    return {
        name: make() for name, (module, make) in PEERS.get(loss, {}).items() if importlib.util.find_spec(module) is not None
    }
