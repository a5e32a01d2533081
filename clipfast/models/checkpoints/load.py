"""Filling a model with trained weights."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from clipfast.models.checkpoints.formats import Layout, layout_of
from clipfast.models.checkpoints.resize import resize_image_positions, resize_text_positions
from clipfast.models.checkpoints.weight_files import read_state_dict, unwrapped
from clipfast.models.clip_model import CLIP
from clipfast.models.tower_configs import ResNetConfig

# In TorchScript archives and files of older Transformers and EVA-CLIP: constants that follow from the configuration.
IGNORED = ("input_resolution", "context_length", "vocab_size", "attn_mask")
IGNORED_ENDS = (".position_ids", ".attn_mask", "rope.freqs_cos", "rope.freqs_sin")
NAMES_SHOWN = 8


@dataclass(frozen=True)
class LoadReport:
    """What ``load_checkpoint`` found: the layout; the file's names that were missing or unexpected; the model's positional
    embeddings that were resized."""

    layout: str
    missing: tuple[str, ...]
    unexpected: tuple[str, ...]
    resized: tuple[str, ...]


@torch.no_grad()
def load_checkpoint(model: CLIP, source: str | Path | Mapping[str, Tensor], *, strict: bool = True) -> LoadReport:
    """Fill ``model`` in place from a file or a state dict, keeping the model's dtypes and devices.

    Reads the layouts of OpenAI (plain state dicts, TorchScript archives), OpenCLIP (CLIP and CustomTextCLIP), Hugging Face
    (CLIPModel, SiglipModel), EVA-CLIP and, for the image tower, timm, recognised from the names; safetensors too.
    Positional embeddings of another resolution or context length are resized: bicubic with antialiasing for images, linear
    for texts. A model on the meta device gets the file's tensors on their device, converted to the model's dtypes.

    Raises ValueError, leaving the model as it was, for a shape that differs, and, unless ``strict`` is false, for names
    that are missing or unexpected.
    """
    state = unwrapped(source) if isinstance(source, Mapping) else read_state_dict(source)
    state = {name: v for name, v in state.items() if name not in IGNORED and not name.endswith(IGNORED_ENDS)}
    layout = layout_of(state.keys(), model.config)
    values, missing, used = _gather(model, state, layout)
    resized = _resize(model, values)
    unexpected = sorted(set(state) - used)
    _check(model, values, layout, missing if strict else [], unexpected if strict else [])
    _fill(model, values)
    return LoadReport(layout.name, tuple(missing), tuple(unexpected), tuple(resized))


def _gather(model: CLIP, state: Mapping[str, Tensor], layout: Layout) -> tuple[dict[str, Tensor], list[str], set[str]]:
    """Our parameters as the state dict has them, the names that it lacks, and those that were used."""
    values: dict[str, Tensor] = {}
    missing: list[str] = []
    used: set[str] = set()
    for name, own in model.state_dict().items():
        place = layout.place(name)
        if place is None:
            missing.append(f"{name} (clipfast's name: the {layout.name} layout has no such parameter)")
            continue
        absent = [part for part in place.names if part not in state]
        missing += absent
        used.update(place.names)
        if not absent:
            values[name] = place.join([state[part] for part in place.names], own.ndim)
    return values, missing, used & set(state)


def _resize(model: CLIP, values: dict[str, Tensor]) -> list[str]:
    """Resize positional embeddings in ``values`` whose lengths differ from the model's; return their names."""
    text, image = "positional_embedding", "visual.positional_embedding"
    if isinstance(model.config.vision, ResNetConfig):
        image = "visual.attnpool.positional_embedding"
    own, resized = model.state_dict(), []
    for name in (text, image):
        table, wanted = values.get(name), own.get(name)
        if table is None or wanted is None or table.ndim != 2 or len(table) == len(wanted):
            continue
        prefix = int(getattr(model.config.vision, "class_token", True))
        new = resize_text_positions(table, len(wanted)) if name == text else resize_image_positions(table, len(wanted), prefix)
        if new is not None:
            values[name] = new
            resized.append(name)
    return resized


def _check(model: CLIP, values: Mapping[str, Tensor], layout: Layout, missing: list[str], unexpected: list[str]) -> None:
    own = model.state_dict()
    shapes = [
        f"{name} {tuple(value.shape)} for {tuple(own[name].shape)}"
        for name, value in values.items()
        if value.shape != own[name].shape
    ]
    faults = [
        f"{len(found)} {what}: {', '.join(found[:NAMES_SHOWN])}{', ...' if len(found) > NAMES_SHOWN else ''}"
        for found, what in ((missing, "missing"), (unexpected, "unexpected"), (shapes, "of another shape"))
        if found
    ]
    if faults:
        raise ValueError(
            f"the checkpoint must fit the model; got ({layout.name} layout) {'; '.join(faults)}; create the model that it was "
            "trained as, or pass strict=False to load the rest where names are missing or unexpected"
        )


def _fill(model: CLIP, values: Mapping[str, Tensor]) -> None:
    own = model.state_dict()
    assign = any(value.is_meta for value in own.values())
    if assign:
        values = {name: value.to(own[name].dtype).clone() for name, value in values.items()}
    model.load_state_dict(values, strict=False, assign=assign)
