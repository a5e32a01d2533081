"""The arguments that all losses take: declared, documented and checked once."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any, Literal, NamedTuple, TypedDict, TypeVar

import torch

from clipfast.common.argument_checks import check_choice
from clipfast.operators.group_operators import GroupOptions, group_options

if TYPE_CHECKING:
    from torch.distributed import ProcessGroup

Function = TypeVar("Function", bound=Callable[..., Any])
Reduction = Literal["mean", "sum", "none"]
REDUCTIONS = ("mean", "sum", "none")


class RankOptions(TypedDict, total=False):
    """How the ranks of a process group share a loss; described in ``DESCRIPTIONS``."""

    group: ProcessGroup | None
    strategy: Literal["auto", "ring", "gather"]
    gradient_reduction: Literal["mean", "sum"]


class LossOptions(RankOptions, total=False):
    """The keyword arguments of every loss; described in ``DESCRIPTIONS``."""

    normalize: bool
    reduction: Reduction
    backend: str | None
    workspace_bytes: int | None


DEFAULTS: dict[str, Any] = {
    "normalize": False,
    "reduction": "mean",
    "backend": None,
    "workspace_bytes": None,
    "group": None,
    "strategy": "auto",
    "gradient_reduction": "mean",
}

DESCRIPTIONS = {
    "normalize": "Divide each row by its Euclidean norm as F.normalize does, inside the loss, without a normalised copy.",
    "reduction": '"mean", the average over all rows (and columns, in two directions) that have a positive; "sum"; or "none".',
    "backend": "One of clipfast.backends(); None chooses the fastest that runs.",
    "workspace_bytes": "The most extra memory, in bytes, beside the gradients; None: 64 MiB on the CPU, one tile on a GPU.",
    "group": """A torch.distributed process group whose ranks call the loss together, each with its own part of the batch, of
        any size; row i, or its target, still belongs to a column of the same rank. With "mean" and
        "sum" every rank gets the value for the batch of all ranks; "none" gives the losses of its own rows. Gradients are
        those of the sum of the values on all ranks, which after the averaging of DDP or FSDP are one process's on the whole
        batch. Scale, bias and all options must be the same on all ranks. Raises RuntimeError where a rank fails or does not
        come.""",
    "strategy": """How columns travel in a group: "ring" passes them round, O(n D) memory on each rank; "gather" collects
        them, O(N D); "auto" gathers up to 256 MiB (docs/guides/distributed.md).""",
    "gradient_reduction": """How the wrapper around the model reduces gradients: "mean" as DDP and FSDP do, or "sum", which
        counts a value that all ranks share once.""",
}

COMMON = """
    Features are (rows, width) in float32, float64, bfloat16 or float16, both sides of one dtype (under autocast the narrower
    is promoted), contiguous or not. Scales, temperatures and biases are floats, or tensors with one element. Losses are
    float32, or float64 for float64 features. Gradients flow to the features and to every tensor scale, temperature and bias
    that asks for them; what is not asked for is not computed. Raises ValueError or TypeError for what cannot be served.
"""


class Checked(NamedTuple):
    """The options of one call, with the loss's own defaults."""

    normalize: bool
    reduction: str
    backend: str | None
    workspace_bytes: int | None
    ranks: GroupOptions


def plain(defaults: Mapping[str, Any]) -> Checked:
    """A loss's options where none are given, with ``defaults`` in place of the common ones."""
    chosen = {**DEFAULTS, **defaults}
    return Checked(chosen["normalize"], chosen["reduction"], chosen["backend"], chosen["workspace_bytes"], GroupOptions())


def checked(name: str, base: Checked, given: Mapping[str, Any]) -> Checked:
    """``given`` to the function ``name``, in place of ``base`` where it says something."""
    check_known(name, given, DEFAULTS)
    normalize, reduction, backend, workspace_bytes, ranks = base
    normalize = given.get("normalize", normalize)
    if not isinstance(normalize, int):
        raise TypeError(f"normalize must be True or False; got {normalize!r}")
    workspace_bytes = given.get("workspace_bytes", workspace_bytes)
    if workspace_bytes is not None and not isinstance(workspace_bytes, (int, torch.SymInt)):
        raise TypeError(f"workspace_bytes must be a whole number of bytes, or None; got {workspace_bytes!r}")
    if "reduction" in given:
        reduction = given["reduction"]
        check_choice("reduction", reduction, REDUCTIONS)
    if "group" in given or "strategy" in given or "gradient_reduction" in given:
        chosen = {**DEFAULTS, **given}
        ranks = group_options(chosen["group"], chosen["strategy"], chosen["gradient_reduction"])
    return Checked(bool(normalize), reduction, given.get("backend", backend), workspace_bytes, ranks)


def documented(defaults: Mapping[str, Any]) -> Callable[[Function], Function]:
    """Complete a loss's docstring and signature with the options, as ``help`` and editors show them."""

    def complete(function: Function) -> Function:
        values = {**DEFAULTS, **defaults}
        lines = [f"    ``{name}`` (default {values[name]!r}): {text}" for name, text in DESCRIPTIONS.items()]
        function.__doc__ = f"{function.__doc__ or ''}{COMMON}\n    Options:\n\n" + "\n".join(lines) + "\n"
        return with_options(LossOptions, values)(function)

    return complete


def with_options(options: Any, values: Mapping[str, Any]) -> Callable[[Function], Function]:
    """Show the keys of a TypedDict in place of ``**options`` in a function's signature, with ``values`` as their defaults."""

    def complete(function: Function) -> Function:
        signature = inspect.signature(function)
        own = [p for p in signature.parameters.values() if p.kind is not inspect.Parameter.VAR_KEYWORD]
        hints = {name: getattr(hint, "__forward_arg__", hint) for name, hint in options.__annotations__.items()}
        named = [
            inspect.Parameter(name, inspect.Parameter.KEYWORD_ONLY, default=values[name], annotation=hints[name])
            for name in DEFAULTS
            if name in hints
        ]
        function.__signature__ = signature.replace(parameters=[*own, *named])  # type: ignore[attr-defined]
        return function

    return complete


def check_known(function: str, given: Mapping[str, Any], accepted: Mapping[str, Any]) -> None:
    """TypeError for an argument that ``function`` does not take."""
    for name in given:
        if name not in accepted:
            raise TypeError(f"{function}() takes no argument {name!r}; beside its own it accepts {', '.join(accepted)}")
