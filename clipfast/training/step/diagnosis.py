"""Why a loss or a gradient is not finite: what was not finite first, from the parameters and pictures to the gradients."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import torch
from torch import Tensor

from clipfast.models import CLIP
from clipfast.training.processes.world import World

ADVICE = {
    "parameter": "an earlier step broke it: lower optimizer.learning_rate, or set optimizer.max_gradient_norm = 1.0",
    "scale": "lower optimizer.learning_rate; the clamp of the scale below 100 does not stop a NaN",
    "pictures": "look at the file, and at what transforms it",
    "image features": "the image tower overflowed: with float16 use bfloat16, otherwise lower optimizer.learning_rate",
    "text features": "the text tower overflowed: with float16 use bfloat16, otherwise lower optimizer.learning_rate",
    "gradient": "lower optimizer.learning_rate, set optimizer.max_gradient_norm = 1.0, or use a precision with more range",
    "loss": "everything before it is finite: please report this as a defect of the loss, with the checkpoint",
}


class NotFiniteError(RuntimeError):
    """A loss or a gradient is NaN or infinite; the message says why."""


def diagnose(model: CLIP, images: Tensor, features: Sequence[Tensor], world: World) -> str:
    """One line: what is not finite first, in which process, and what to try. Every process must call it."""
    causes = world.gather(next(_causes(model, images, features)))
    # What is wrong in one process reaches the others' gradients through the loss: the earliest stage is the cause.
    rank, (kind, found) = min(enumerate(causes), key=lambda cause: list(ADVICE).index(cause[1][0]))
    where = f" in process {rank}" if world.size > 1 else ""
    return f"{found}{where}; {ADVICE[kind]}"


def _causes(model: CLIP, images: Tensor, features: Sequence[Tensor]) -> Iterator[tuple[str, str]]:
    """A key of ``ADVICE`` and a sentence for each place; an earlier one may have caused the later ones."""
    for name, parameter in model.named_parameters():
        if count := _not_finite(parameter):
            kind = "scale" if name == "logit_scale" else "parameter"
            yield kind, f"the parameter {name} has {count} values of {parameter.numel()} that are not finite"
    broken = (~images.isfinite().flatten(1).all(dim=1)).nonzero().flatten().tolist()
    if broken:
        yield "pictures", f"{len(broken)} of the batch's {len(images)} pictures, the first at place {broken[0]}, are not finite"
    for name, value in zip(("image features", "text features", "scale"), features, strict=False):
        if count := _not_finite(value):
            yield name, f"{count} of {value.numel()} values of the {name} are not finite"
    for name, parameter in model.named_parameters():
        if parameter.grad is not None and (count := _not_finite(parameter.grad)):
            yield "gradient", f"the gradient of {name} has {count} values of {parameter.numel()} that are not finite"
    yield "loss", "the loss alone is not finite"


def _not_finite(values: Tensor) -> int:
    return int((~torch.isfinite(values)).sum())
