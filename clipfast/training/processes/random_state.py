"""The state of the global random generators: torch's, Python's and NumPy's."""

from __future__ import annotations

import random
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor


class RandomState(NamedTuple):
    """Where the generators of this process are. ``devices`` has every CUDA and XPU device, once they are in use."""

    cpu: Tensor
    devices: dict[torch.device, Tensor]
    python: tuple
    numpy: Any

    @classmethod
    def capture(cls) -> RandomState:
        used = [(kind, module) for kind, module in (("cuda", torch.cuda), ("xpu", torch.xpu)) if module.is_initialized()]
        devices = {torch.device(kind, i): state for kind, module in used for i, state in enumerate(module.get_rng_state_all())}
        return cls(torch.get_rng_state(), devices, random.getstate(), np.random.get_state())

    def restore(self) -> None:
        """Continue where the state was captured."""
        torch.set_rng_state(self.cpu)
        for device, state in self.devices.items():
            torch.get_device_module(device).set_rng_state(state, device)
        random.setstate(self.python)
        np.random.set_state(self.numpy)

    def plain(self) -> dict[str, Any]:
        """Tensors and plain values for a checkpoint, which another process can restore: of the devices, the current GPU."""
        name, keys, position, has_gauss, gauss = tuple[Any, ...](self.numpy)
        gpu = torch.device("cuda", torch.cuda.current_device()) if torch.cuda.is_initialized() else None
        return {
            "torch": self.cpu,
            "cuda": None if gpu is None else self.devices.get(gpu),
            "numpy": (name, keys.tolist(), position, has_gauss, gauss),
            "python": self.python,
        }

    @classmethod
    def from_plain(cls, values: dict[str, Any]) -> RandomState:
        """What ``plain`` returned, in this or another process; its GPU is the one that is current on ``restore``."""
        devices = {torch.device("cuda"): values["cuda"]} if values["cuda"] is not None and torch.cuda.is_available() else {}
        return cls(values["torch"], devices, values["python"], values["numpy"])


def seed_all(seed: int) -> None:
    """Start all generators anew."""
    torch.manual_seed(seed)
    np.random.seed(seed % 2**32)
    random.seed(seed)


def continue_random(states: list[dict[str, Any]], rank: int, seed: int) -> None:
    """Restore the state of process ``rank`` from a checkpoint's, or seed it anew where the checkpoint has none for it."""
    if rank < len(states):
        RandomState.from_plain(states[rank]).restore()
    else:
        seed_all(seed + rank)
