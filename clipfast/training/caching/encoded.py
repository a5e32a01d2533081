"""One tower's part of a step: encode a batch in chunks and keep the features; encode again and backpropagate."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from clipfast.training.caching.replay import without_autocast
from clipfast.training.caching.trees import Batch, has_rows, named_leaves, rebuild
from clipfast.training.processes.random_state import RandomState


class Tower(NamedTuple):
    """A callable from a batch to features, its chunk size, and the modules behind it."""

    name: str
    encode: Callable[[Any], Any]
    chunk_size: int
    modules: list[nn.Module]


class Chunk(NamedTuple):
    """Rows ``start`` to ``stop`` of a batch, and the random state before their first encoding."""

    start: int
    stop: int
    random: RandomState


@dataclass(frozen=True, eq=False)
class Encoded:
    """The features of a batch, without the graph that made them.

    ``leaves``: the tower's outputs for the whole batch, in the order in which they stand in ``template``; ``trained`` says
    of each whether it depends on anything that requires a gradient.
    """

    tower: Tower
    batch: Batch
    chunks: list[Chunk]
    template: Any
    leaves: list[Any]
    trained: list[bool]

    @property
    def features(self) -> Any:
        """The arguments of the losses, in the structure that the tower returned."""
        return rebuild(self.template, iter(self.leaves))

    @property
    def detached(self) -> Any:
        """The features without their gradients, in the same structure."""
        return rebuild(self.template, map(_detached, self.leaves))

    def needs_backward(self) -> bool:
        """Whether a loss gave a gradient to something that the tower can use."""
        return any(trained and leaf.grad is not None for leaf, trained in zip(self.leaves, self.trained, strict=True))

    def backward_chunk(self, index: int, verify: bool) -> None:
        """Encode a chunk again, with its graph and its first random numbers, and backpropagate its features' gradients."""
        chunk = self.chunks[index]
        chunk.random.restore()
        _, outputs = _encode_chunk(self.tower, self.batch, chunk)
        if verify:
            self._compare(chunk, outputs)
        heads, grads = [], []
        for output, leaf, trained in zip(outputs, self.leaves, self.trained, strict=True):
            # The gradient of a single number goes back once, with the last chunk, which is the one that DDP exchanges.
            if trained and leaf.grad is not None and (leaf.dim() > 0 or index == len(self.chunks) - 1):
                heads.append(output)
                grads.append(leaf.grad[chunk.start : chunk.stop] if leaf.dim() > 0 else leaf.grad)
        if heads:
            with without_autocast():
                torch.autograd.backward(heads, grads)

    def _compare(self, chunk: Chunk, outputs: list[Any]) -> None:
        start, stop = chunk.start, chunk.stop
        for output, leaf in zip(outputs, self.leaves, strict=True):
            if not isinstance(leaf, Tensor):
                continue
            first, second = leaf.detach()[start:stop] if leaf.dim() > 0 else leaf.detach(), output.detach()
            if not torch.equal(first, second):
                raise RuntimeError(
                    f"{self.tower.name} must return the same features for the same rows; got other ones for rows {start} to "
                    f"{stop} the second time (largest difference {(first.double() - second.double()).abs().max():.3g}), so the "
                    "gradients would be wrong; look for random numbers from a generator of its own, state other than buffers, "
                    "non-deterministic kernels, and single numbers that depend on the input"
                )


def encode(tower: Tower, batch: Batch) -> Encoded:
    """Run ``tower`` over ``batch`` chunk by chunk, and let go of the graphs."""
    chunks, outputs = [], []
    for start in range(0, batch.rows, tower.chunk_size):
        chunks.append(Chunk(start, min(start + tower.chunk_size, batch.rows), RandomState.capture()))
        # The first chunk has a graph only to show which outputs depend on something that is trained.
        outputs.append(_without_graph(tower, batch, chunks[-1], look_for_gradients=start == 0))
    template, first, trained = outputs[0]
    for _, leaves, _ in outputs:
        if len(leaves) != len(first):
            raise ValueError(
                f"{tower.name} must return as many values for every chunk; got {len(first)} for one, {len(leaves)} for another"
            )
    # A single number (a scale that the module returns) is the same for all chunks: the first chunk's is used.
    columns = zip(*(leaves for _, leaves, _ in outputs), strict=True)
    joined = [torch.cat(parts) if has_rows(parts[0]) else parts[0] for parts in columns]
    for leaf, wanted in zip(joined, trained, strict=True):
        if wanted:
            leaf.requires_grad_()
    return Encoded(tower, batch, chunks, template, joined, trained)


class _Outputs(NamedTuple):
    """A chunk's outputs without their graph: in the tower's structure, in a list, and which of them required a gradient."""

    tree: Any
    leaves: list[Any]
    trained: list[bool]


def _without_graph(tower: Tower, batch: Batch, chunk: Chunk, look_for_gradients: bool) -> _Outputs:
    with torch.set_grad_enabled(look_for_gradients):
        tree, outputs = _encode_chunk(tower, batch, chunk)
    leaves = [_detached(x) for x in outputs]
    return _Outputs(rebuild(tree, iter(leaves)), leaves, [isinstance(x, Tensor) and x.requires_grad for x in outputs])


def _encode_chunk(tower: Tower, batch: Batch, chunk: Chunk) -> tuple[Any, list[Any]]:
    """The structure that the tower returns for ``chunk``, and the tensors and plain values in it."""
    torch.clear_autocast_cache()  # a weight cast without graph must not serve with one; torch 2.13 sees to it itself
    tree = tower.encode(batch.chunk(chunk.start, chunk.stop))
    leaves = list(named_leaves(tree, f"the output of {tower.name}"))
    rows = chunk.stop - chunk.start
    for place, leaf in leaves:
        if has_rows(leaf) and leaf.shape[0] != rows:
            raise ValueError(
                f"{place} must have one row of features for each row of the input, or be a single number; got shape "
                f"{tuple(leaf.shape)} for a chunk of {rows} rows"
            )
    return tree, [leaf for _, leaf in leaves]


def _detached(leaf: Any) -> Any:
    return leaf.detach() if isinstance(leaf, Tensor) else leaf
