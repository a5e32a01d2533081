"""The state that the second encoding of a chunk must find as the first one did: random numbers, buffers, autocast."""

from __future__ import annotations

import random
from collections.abc import Iterable, Iterator
from contextlib import ExitStack, contextmanager
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor, nn

AUTOCAST_DEVICES = ("cpu", "cuda", "xpu", "mps")


class RandomState(NamedTuple):
    """torch's generators (CPU, and every CUDA and XPU device once they are in use), Python's and NumPy's global ones."""

    cpu: Tensor
    devices: list[tuple[Any, list[Tensor]]]
    python: tuple
    numpy: Any

    @classmethod
    def capture(cls) -> RandomState:
        used = [module for module in (torch.cuda, torch.xpu) if module.is_initialized()]
        devices = [(module, list(module.get_rng_state_all())) for module in used]
        return cls(torch.get_rng_state(), devices, random.getstate(), np.random.get_state())

    def restore(self) -> None:
        torch.set_rng_state(self.cpu)
        for module, states in self.devices:
            module.set_rng_state_all(states)
        random.setstate(self.python)
        np.random.set_state(self.numpy)


class Buffers:
    """Values of the modules' buffers. Running statistics must count each chunk once, not twice."""

    def __init__(self, modules: Iterable[nn.Module]) -> None:
        self.saved: dict[tuple[int, str], tuple[nn.Module, str, Tensor, Tensor]] = {}
        for module in (m for root in modules for m in root.modules()):
            for name, buffer in module.named_buffers(recurse=False):
                self.saved[id(module), name] = (module, name, buffer, buffer.detach().clone())

    @torch.no_grad()
    def restore(self, roots: Iterable[nn.Module]) -> None:
        """Put back the values in ``roots`` and all below them."""
        chosen = {id(m) for root in roots for m in root.modules()}
        for module, name, buffer, value in self.saved.values():
            if id(module) not in chosen:
                continue
            if getattr(module, name) is not buffer:
                setattr(module, name, buffer)
            # Batch norm's kernels do not count as changes, so all are written; through .data, for a graph outside that saved
            # a constant buffer must not take this for a change of it.
            buffer.data.copy_(value)


@contextmanager
def without_autocast() -> Iterator[None]:
    """Backward passes run outside autocast, as after ``with torch.autocast(...)`` in an ordinary training loop."""
    with ExitStack() as stack:
        for device in AUTOCAST_DEVICES:
            if torch.is_autocast_enabled(device):
                stack.enter_context(torch.autocast(device, enabled=False))
        yield
