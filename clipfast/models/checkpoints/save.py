"""Writing a model's weights under names that other projects read."""

from __future__ import annotations

from pathlib import Path

from torch import Tensor

from clipfast.models.checkpoints.formats import layout_named
from clipfast.models.checkpoints.weight_files import write_state_dict
from clipfast.models.clip_model import CLIP


def export_state_dict(model: CLIP, layout: str = "open_clip") -> dict[str, Tensor]:
    """The weights under the names of ``layout``: "open_clip" (for plain CLIP models OpenAI's own names) or "huggingface".

    Raises ValueError for a model that the layout has no names for: Hugging Face's has only CLIP's and SigLIP's vision
    transformers.
    """
    table = layout_named(layout, model.config)
    state: dict[str, Tensor] = {}
    for name, value in model.state_dict().items():
        place = table.place(name)
        assert place is not None, f"{name} has no place in the layout {layout}"
        state |= place.cut(value)
    return state


def save_checkpoint(model: CLIP, path: str | Path, *, layout: str = "open_clip") -> None:
    """Write the weights atomically, as safetensors if ``path`` ends in ".safetensors", otherwise as a plain state dict.

    ``load_checkpoint`` reads the same bits back. ``layout`` and errors are those of ``export_state_dict``.
    """
    write_state_dict(path, export_state_dict(model, layout))
