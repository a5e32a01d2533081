"""The layout of a checkpoint, recognised from its names, and the layouts in which a model can be written."""

from __future__ import annotations

from collections.abc import Callable, Collection
from dataclasses import dataclass

from clipfast.common.argument_checks import check_choice
from clipfast.models.checkpoints.layouts import (
    HUGGING_FACE_TEXT,
    HUGGING_FACE_VISION,
    SAME,
    Place,
    Rule,
    eva_vision,
    find,
    timm_vision,
)
from clipfast.models.clip_config import ClipConfig
from clipfast.models.tower_configs import TextConfig, VisionConfig

SCALARS = ("logit_scale", "logit_bias")


@dataclass(frozen=True)
class Layout:
    """Where a file has each parameter: rules and a prefix for each tower, and the dimensions of the scale and the bias there.
    ``name`` is for messages."""

    name: str
    vision: tuple[Rule, ...] = SAME
    vision_prefix: str = "visual."
    text: tuple[Rule, ...] = SAME
    text_prefix: str = ""
    scalar_dimensions: int = 0

    def place(self, ours: str) -> Place | None:
        """Where the parameter that we call ``ours`` is, or None if the layout has no such parameter."""
        if ours in SCALARS:
            return Place(((ours, 1),), leading=self.scalar_dimensions)
        if ours.startswith("visual."):
            return find(self.vision, ours.removeprefix("visual."), self.vision_prefix)
        return find(self.text, ours, self.text_prefix)


def layout_of(names: Collection[str], config: ClipConfig) -> Layout:
    """The layout of a checkpoint with these names, for a model of this configuration; ValueError for an unknown one."""
    if any(name.startswith(("vision_model.", "text_model.")) for name in names):
        return _hugging_face(config)
    text_prefix = "text." if any(name.startswith("text.") for name in names) else ""
    split = any(name.endswith(".attn.q_proj.weight") for name in names)
    gated = isinstance(config.vision, VisionConfig) and config.vision.gated
    kinds: tuple[tuple[str, str, Callable[[bool, bool], tuple[Rule, ...]], str], ...] = (
        ("visual.trunk.patch_embed.", "OpenCLIP", timm_vision, "visual.trunk."),
        ("visual.patch_embed.", "EVA-CLIP", eva_vision, "visual."),
        ("patch_embed.", "timm", timm_vision, ""),
    )
    for start, name, rules, prefix in kinds:
        if any(known.startswith(start) for known in names):
            return Layout(name, rules(split, gated), prefix, text_prefix=text_prefix)
    if "visual.conv1.weight" in names or f"{text_prefix}token_embedding.weight" in names:
        return Layout("OpenCLIP" if text_prefix else "OpenAI", text_prefix=text_prefix)
    raise ValueError(
        "the names in a checkpoint must be those of OpenAI's CLIP, OpenCLIP, timm, EVA-CLIP, or Hugging Face's CLIPModel and "
        f"SiglipModel; got {', '.join(sorted(names)[:5])}, ..."
    )


def layout_named(name: str, config: ClipConfig) -> Layout:
    """The layout to write: "open_clip", which for plain CLIP models is also OpenAI's, or "huggingface"."""
    check_choice("layout", name, ("open_clip", "huggingface"))
    if name == "huggingface":
        if not (_is_clip_model(config) or _is_siglip_model(config)):
            raise ValueError(
                "layout must be 'open_clip' for this model; got 'huggingface', which is for CLIPModel and SiglipModel, whose "
                "towers are the plain vision and text transformers of CLIP and SigLIP"
            )
        return _hugging_face(config)
    vision = config.vision
    if isinstance(vision, VisionConfig) and not _is_plain_vision(vision):
        rules = timm_vision(split=vision.gated, gated=vision.gated)
        return Layout("OpenCLIP", rules, "visual.trunk.", text_prefix="text.")
    return Layout("OpenCLIP", text_prefix="" if _is_plain_text(config) else "text.")


def _hugging_face(config: ClipConfig) -> Layout:
    siglip = config.loss == "sigmoid"
    return Layout("Hugging Face", HUGGING_FACE_VISION, "", HUGGING_FACE_TEXT, scalar_dimensions=int(siglip))


def _is_clip_model(config: ClipConfig) -> bool:
    """Whether Transformers' CLIPModel has these parts."""
    vision = isinstance(config.vision, VisionConfig) and _is_plain_vision(config.vision)
    return vision and _is_plain_text(config) and config.loss == "softmax"


def _is_siglip_model(config: ClipConfig) -> bool:
    """Whether Transformers' SiglipModel has these parts: its text tower always has a projection with a bias."""
    vision, text = config.vision, config.text
    if not isinstance(vision, VisionConfig) or not isinstance(text, TextConfig) or config.loss != "sigmoid":
        return False
    odd = vision.class_token or vision.input_norm or not vision.patch_bias or _has_eva_blocks(vision)
    same_head = vision.pool == "attention" and vision.projection == "none" and vision.key_bias
    return same_head and not odd and not text.causal and text.pool == "last" and text.projection == "linear"


def _has_eva_blocks(vision: VisionConfig) -> bool:
    """Whether the blocks have a part that only EVA's have."""
    return vision.gated or vision.sub_norm or vision.post_norm or vision.rope_grid is not None


def _is_plain_vision(vision: VisionConfig) -> bool:
    """Whether the tower has exactly the parts of OpenAI's vision transformer."""
    plain = vision.class_token and vision.input_norm and vision.key_bias and vision.pool == "class"
    return plain and not vision.patch_bias and not _has_eva_blocks(vision) and vision.projection == "matrix"


def _is_plain_text(config: ClipConfig) -> bool:
    """Whether the text tower has exactly the parts of OpenAI's."""
    text = config.text
    return isinstance(text, TextConfig) and text.causal and text.pool == "highest" and text.projection == "matrix"
