"""Inputs and outputs of towers: tensors, or dicts, tuples and lists of tensors, nested to any depth."""

from __future__ import annotations

import copy
from collections.abc import Iterator, Mapping, MutableMapping
from typing import Any

from torch import Tensor

PLAIN = (type(None), bool, int, float, complex, str)
"""Values that may stand beside tensors. They have no batch dimension; every chunk gets them unchanged."""


def named_leaves(tree: Any, name: str) -> Iterator[tuple[str, Any]]:
    """Every tensor and plain value with its place, such as ``input 1['input_ids']``."""
    if isinstance(tree, Mapping):
        for key, value in tree.items():
            yield from named_leaves(value, f"{name}[{key!r}]")
    elif isinstance(tree, (tuple, list)):
        for i, value in enumerate(tree):
            yield from named_leaves(value, f"{name}[{i}]")
    elif isinstance(tree, (Tensor, *PLAIN)):
        yield name, tree
    else:
        raise TypeError(
            f"{name} must be a tensor, a plain number, a string or None, or a dict, tuple or list of them; got a "
            f"{type(tree).__name__}; convert it, or let the tower's function do so"
        )


def rebuild(tree: Any, leaves: Iterator[Any]) -> Any:
    """``tree`` with its leaves replaced, in the order of ``named_leaves``."""
    if isinstance(tree, MutableMapping):
        new = copy.copy(tree)  # keeps the type and its other attributes: tokenizers and models return mappings of their own
        for key in tree:
            new[key] = rebuild(tree[key], leaves)
        return new
    if isinstance(tree, Mapping):
        return {key: rebuild(value, leaves) for key, value in tree.items()}
    if isinstance(tree, (tuple, list)):
        values = [rebuild(value, leaves) for value in tree]
        return type(tree)(*values) if hasattr(tree, "_fields") else type(tree)(values)
    return next(leaves)


def has_rows(leaf: Any) -> bool:
    """Whether a leaf has a batch dimension: a tensor that is not a single number."""
    return isinstance(leaf, Tensor) and leaf.dim() > 0


class Batch:
    """The input of one tower, cut along the first dimension of its tensors."""

    def __init__(self, tree: Any, name: str) -> None:
        self.tree = tree
        self.leaves = list(named_leaves(tree, name))
        for place, leaf in self.leaves:
            if isinstance(leaf, Tensor) and leaf.requires_grad and not leaf.is_leaf:
                raise ValueError(
                    f"{place} must be a leaf or need no gradient; got a tensor with a graph of its own, which the chunks would "
                    "backpropagate more than once; detach() it, or compute it inside the tower"
                )
        self.rows = self._rows(name)

    def _rows(self, name: str) -> int:
        sizes = {place: leaf.shape[0] for place, leaf in self.leaves if has_rows(leaf)}
        if not sizes:
            raise ValueError(f"{name} must have a tensor with a batch dimension, along which it is cut into chunks; got none")
        if len(set(sizes.values())) > 1:
            found = ", ".join(f"{place} has {size} rows" for place, size in sizes.items())
            raise ValueError(
                f"the tensors of {name} must agree in their first dimension, the batch; got: {found}; give a tensor without "
                "batch dimension to the tower's function in another way"
            )
        if (rows := next(iter(sizes.values()))) == 0:
            raise ValueError(f"{name} must have at least one row; got an empty batch")
        return rows

    def chunk(self, start: int, stop: int) -> Any:
        """Rows ``start`` to ``stop`` as views, in the structure of the whole batch."""
        return rebuild(self.tree, (leaf[start:stop] if has_rows(leaf) else leaf for _, leaf in self.leaves))
