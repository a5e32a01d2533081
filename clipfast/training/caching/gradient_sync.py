"""The exchange of gradients between processes waits for the last chunk: DDP, FSDP, FSDP2."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from contextlib import ExitStack, contextmanager
from typing import Any

from torch import nn
from torch.nn.parallel import DistributedDataParallel

from clipfast.training.caching.discover import unique


def synchronising(modules: Iterable[nn.Module]) -> list[Any]:
    """The outermost modules, among ``modules`` and inside them, that exchange gradients between processes.

    They have ``no_sync`` (DDP, FSDP) or ``set_requires_gradient_sync`` (FSDP2). ValueError for DDP with a static graph, whose
    exchange cannot wait.
    """
    found = unique(found for root in modules for found in _outermost(root))
    if any(isinstance(m, DistributedDataParallel) and m.static_graph for m in found):
        raise ValueError(
            "DistributedDataParallel must have static_graph=False to accumulate gradients over chunks; got static_graph=True, "
            "with which an assertion inside torch fails in the first step; build it without static_graph"
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
def without_sync(modules: Iterable[Any]) -> Iterator[None]:
    """Forward and backward passes inside accumulate gradients in this process only."""
    with ExitStack() as stack:
        for module in modules:
            if hasattr(module, "no_sync"):
                stack.enter_context(module.no_sync())
            else:
                module.set_requires_gradient_sync(False)
                stack.callback(module.set_requires_gradient_sync, True)
        yield


@contextmanager
def all_gradients_expected(modules: Iterable[Any]) -> Iterator[None]:
    """Raise at once where DDP would leave gradients unsynchronised and complain in the next step.

    DDP's exchange ends when every parameter has got its gradient in the pass that synchronises, the last chunk's.
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
            "DistributedDataParallel must get a gradient of every parameter in the last chunk, or its exchange between the "
            f"processes does not end; got no gradient of {', '.join(sorted(missing))}; return what the loss needs of them from "
            "the module's forward (a scale as a single number), encode all inputs with one call of the module, or build it "
            "with find_unused_parameters=True"
        )
