"""What the second encoding of a chunk must find as the first one did: buffers, DDP's flag for them, and autocast."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from contextlib import ExitStack, contextmanager
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel

AUTOCAST_DEVICES = ("cpu", "cuda", "xpu", "mps")


class Buffers:
    """Values of the modules' buffers. Running statistics must count each chunk once, not twice."""

    def __init__(self, modules: Iterable[nn.Module]) -> None:
        self.saved: dict[tuple[int, str], tuple[nn.Module, str, Tensor, Tensor]] = {}
        for module in (m for root in modules for m in root.modules()):
            for name, buffer in module.named_buffers(recurse=False):
                self.saved[id(module), name] = (module, name, buffer, buffer.detach().clone())

    @torch.no_grad()
    def restore(self, roots: Iterable[nn.Module]) -> None:
        """Put back the values in ``roots`` and all modules below them."""
        chosen = {id(m) for root in roots for m in root.modules()}
        for module, name, buffer, value in self.saved.values():
            if id(module) not in chosen:
                continue
            if getattr(module, name) is not buffer:
                setattr(module, name, buffer)
            # Every buffer is written, because torch does not count what batch norm's kernels write as a change. It is written
            # through .data, so that a graph outside the step that saved a constant buffer does not see a change either.
            buffer.data.copy_(value)


class ForwardSync:
    """Whether DDP's next forward pass copies the buffers of rank 0.

    If so, the second encoding must copy them too, because there the buffers start from the values before the first one.
    """

    def __init__(self, modules: Iterable[Any]) -> None:
        ddp = [m for m in modules if isinstance(m, DistributedDataParallel)]
        self.saved = [(m, m.require_forward_param_sync) for m in ddp]

    def restore(self) -> None:
        for module, value in self.saved:
            module.require_forward_param_sync = value


@contextmanager
def without_autocast() -> Iterator[None]:
    """Backward passes run outside autocast, as after ``with torch.autocast(...)`` in an ordinary training loop."""
    with ExitStack() as stack:
        for device in AUTOCAST_DEVICES:
            if torch.is_autocast_enabled(device):
                stack.enter_context(torch.autocast(device, enabled=False))
        yield
