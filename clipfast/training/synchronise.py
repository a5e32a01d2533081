"""Holding back the exchange of gradients between processes until the last chunk: DDP, FSDP, FSDP2."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from contextlib import ExitStack, contextmanager
from typing import Any

from torch import nn
from torch.nn.parallel import DistributedDataParallel

from clipfast.training.found import unique


def synchronised(modules: Iterable[nn.Module]) -> list[Any]:
    """The outermost modules among them and inside them that exchange gradients: with ``no_sync`` (DDP, FSDP) or
    ``set_requires_gradient_sync`` (FSDP2). ValueError for DDP that cannot hold its exchange back."""
    found = unique(found for root in modules for found in _outermost(root))
    if any(isinstance(m, DistributedDataParallel) and m.static_graph for m in found):
        raise ValueError(
            "DistributedDataParallel(static_graph=True) does not accumulate gradients over chunks in its first step (an "
            "assertion inside torch fails); build it without static_graph"
        )
    return found


def _outermost(module: nn.Module) -> Iterator[nn.Module]:
    # The type is asked: a compiled module passes on attributes of the module that it holds.
    if any(callable(getattr(type(module), name, None)) for name in ("no_sync", "set_requires_gradient_sync")):
        yield module
    else:
        for child in module.children():
            yield from _outermost(child)


@contextmanager
def held_back(modules: Iterable[Any]) -> Iterator[None]:
    """Forward and backward passes inside accumulate gradients in this process only."""
    with ExitStack() as stack:
        for module in modules:
            if hasattr(module, "no_sync"):
                stack.enter_context(module.no_sync())
            else:
                module.set_requires_gradient_sync(False)
                stack.callback(module.set_requires_gradient_sync, True)
        yield


class ForwardSync:
    """Whether DDP's next forward pass copies the buffers of rank 0. It then does so in the second encoding as well,
    where the buffers start again from the values that they had before the first."""

    def __init__(self, modules: Iterable[Any]) -> None:
        ddp = [m for m in modules if isinstance(m, DistributedDataParallel)]
        self.saved = [(m, m.require_forward_param_sync) for m in ddp]

    def restore(self) -> None:
        for module, value in self.saved:
            module.require_forward_param_sync = value


@contextmanager
def complete(modules: Iterable[Any]) -> Iterator[None]:
    """Raise at once where DDP would leave gradients unsynchronised and complain in the next step.

    DDP's exchange ends when every parameter has a gradient of the pass that synchronises, the last chunk's.
    """
    ddp = [m for m in modules if isinstance(m, DistributedDataParallel) and m.require_backward_grad_sync]
    names = {name: p for m in ddp if not m.find_unused_parameters for name, p in m.module.named_parameters()}
    missing = {name for name, p in names.items() if p.requires_grad}
    hooks = [names[n].register_post_accumulate_grad_hook(lambda _, n=n: missing.discard(n)) for n in sorted(missing)]
    try:
        yield
    finally:
        for hook in hooks:
            hook.remove()
    if missing:
        raise RuntimeError(
            f"DistributedDataParallel got no gradient of {', '.join(sorted(missing))} in the last chunk, so that the exchange "
            "of gradients between the processes did not end. Return what the loss needs of them from the module's forward (a "
            "scale as a single number), encode all inputs with one call of the module, or build it with "
            "find_unused_parameters=True"
        )
