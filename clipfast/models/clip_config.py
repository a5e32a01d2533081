"""The shape of a model: its towers and its loss, in plain values, so that ``dataclasses.asdict`` can go into a file.

The image tower is a ``VisionConfig`` (every vision transformer: CLIP's, SigLIP's, EVA's) or a ``ResNetConfig``; the text
tower is a ``TextConfig`` (every transformer) or a ``BagOfWordsConfig``. ``named.py`` has the published combinations.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any, TypeVar

from clipfast.common.argument_checks import check_choice
from clipfast.models.tower_configs import BagOfWordsConfig, ResNetConfig, TextConfig, VisionConfig, check_positive

Tower = TypeVar("Tower", bound="VisionConfig | ResNetConfig | TextConfig | BagOfWordsConfig")


@dataclass(frozen=True)
class ClipConfig:
    """Both towers, the width that they share, and the loss: "softmax" (CLIP) or "sigmoid" (SigLIP)."""

    embed_dim: int
    vision: VisionConfig | ResNetConfig
    text: TextConfig | BagOfWordsConfig
    loss: str = "softmax"

    def __post_init__(self) -> None:
        check_positive(self, "embed_dim")
        check_choice("ClipConfig.loss", self.loss, ("softmax", "sigmoid"))
        for tower in (self.vision, self.text):
            if getattr(tower, "projection", "matrix") == "none" and tower.width != self.embed_dim:
                raise ValueError(
                    f"{type(tower).__name__}.width must be embed_dim, {self.embed_dim}, in a tower without projection; "
                    f"got {tower.width}"
                )

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> ClipConfig:
        """The inverse of ``dataclasses.asdict``."""
        vision = VisionConfig if "patch_size" in values["vision"] else ResNetConfig
        text = TextConfig if "layers" in values["text"] else BagOfWordsConfig
        towers = {"vision": vision(**values["vision"]), "text": text(**values["text"])}
        return cls(**{**values, **towers})

    def with_activation(self, name: str) -> ClipConfig:
        """The same shape with activation ``name`` in both transformers, as checkpoints of one shape differ in it:
        "quick_gelu" (OpenAI), "gelu" (open_clip's own) or "gelu_tanh" (SigLIP in Transformers). Gated MLPs keep theirs."""
        return replace(self, vision=_activated(self.vision, name), text=_activated(self.text, name))


def _activated(tower: Tower, name: str) -> Tower:
    if isinstance(tower, TextConfig) or (isinstance(tower, VisionConfig) and not tower.gated):
        return replace(tower, activation=name)
    return tower
