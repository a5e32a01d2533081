"""One tower's part of a step: encode in chunks, keep the features, encode again and backpropagate."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from clipfast.training.replay import RandomState, without_autocast
from clipfast.training.trees import Batch, has_rows, named_leaves, rebuild


class Tower(NamedTuple):
    """A callable from a batch to features, its chunk size, and the modules behind it."""

    name: str
    encode: Callable[[Any], Any]
    chunk_size: int
    modules: list[nn.Module]


class Encoded:
    """The features of a batch, without the graph that made them."""

    def __init__(self, tower: Tower, batch: Batch) -> None:
        self.tower, self.batch = tower, batch
        self.spans = [(i, min(i + tower.chunk_size, batch.rows)) for i in range(0, batch.rows, tower.chunk_size)]
        self.states: list[RandomState] = []
        chunks = [self._first(i) for i in range(len(self.spans))]
        # A single number (a scale that the module returns) is the same for all chunks: the first one's stands for all.
        self.leaves = [torch.cat(parts) if has_rows(parts[0]) else parts[0] for parts in zip(*chunks, strict=True)]
        for leaf, wanted in zip(self.leaves, self.wanted, strict=True):
            if wanted:
                leaf.requires_grad_()

    @property
    def features(self) -> Any:
        """What the losses are given, in the structure that the tower returned."""
        return rebuild(self.template, iter(self.leaves))

    @property
    def detached(self) -> Any:
        return rebuild(self.template, (x.detach() if isinstance(x, Tensor) else x for x in self.leaves))

    def needs_backward(self) -> bool:
        """Whether a loss gave a gradient to something that the tower can use."""
        return any(wanted and leaf.grad is not None for leaf, wanted in zip(self.leaves, self.wanted, strict=True))

    def again(self, index: int, verify: bool) -> None:
        """Encode a chunk with its graph, in the state of the first time, and backpropagate the gradients of its features."""
        self.states[index].restore()
        _, outputs = self._encode(index)
        if verify:
            self._compare(index, outputs)
        start, stop = self.spans[index]
        heads, grads = [], []
        for output, leaf, wanted in zip(outputs, self.leaves, self.wanted, strict=True):
            # The gradient of a single number goes back once, with the last chunk, which is the one that DDP exchanges.
            if wanted and leaf.grad is not None and (leaf.dim() > 0 or index == len(self.spans) - 1):
                heads.append(output)
                grads.append(leaf.grad[start:stop] if leaf.dim() > 0 else leaf.grad)
        if heads:
            with without_autocast():
                torch.autograd.backward(heads, grads)

    def _first(self, index: int) -> list[Any]:
        self.states.append(RandomState.capture())
        # The first chunk has a graph, only to see which outputs depend on something that is trained.
        with torch.set_grad_enabled(index == 0):
            tree, outputs = self._encode(index)
        if index == 0:
            leaves = [x.detach() if isinstance(x, Tensor) else x for x in outputs]
            self.template = rebuild(tree, iter(leaves))
            self.wanted = [isinstance(x, Tensor) and x.requires_grad for x in outputs]
        elif len(outputs) != len(self.wanted):
            raise ValueError(
                f"{self.tower.name} returned {len(self.wanted)} values for one chunk and {len(outputs)} for another"
            )
        return [x.detach() if isinstance(x, Tensor) else x for x in outputs]

    def _encode(self, index: int) -> tuple[Any, list[Any]]:
        start, stop = self.spans[index]
        torch.clear_autocast_cache()  # a weight cast without graph must not serve with one; torch 2.13 sees to it itself
        tree = self.tower.encode(self.batch.chunk(start, stop))
        leaves = list(named_leaves(tree, f"the output of {self.tower.name}"))
        for place, leaf in leaves:
            if has_rows(leaf) and leaf.shape[0] != stop - start:
                raise ValueError(
                    f"{place} has shape {tuple(leaf.shape)} for a chunk of {stop - start} rows; a tower must return one row of "
                    "features for each row of its input, or single numbers"
                )
        return tree, [leaf for _, leaf in leaves]

    def _compare(self, index: int, outputs: list[Any]) -> None:
        start, stop = self.spans[index]
        for output, leaf in zip(outputs, self.leaves, strict=True):
            if not isinstance(leaf, Tensor):
                continue
            first, second = leaf.detach()[start:stop] if leaf.dim() > 0 else leaf.detach(), output.detach()
            if not torch.equal(first, second):
                raise RuntimeError(
                    f"{self.tower.name} gave other features for rows {start} to {stop} the second time (largest difference "
                    f"{(first.double() - second.double()).abs().max():.3g}), so the gradients would be wrong. It draws random "
                    "numbers from a generator of its own, changes state other than buffers, uses non-deterministic kernels, or "
                    "returns a single number that depends on the input"
                )
