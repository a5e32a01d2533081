"""Tower configurations of each family, at any size."""

from __future__ import annotations

from dataclasses import replace

from clipfast.models.tower_configs import TextConfig, VisionConfig

CONTEXT, VOCABULARY = 77, 49408


def clip_text(width: int, layers: int, activation: str = "gelu") -> TextConfig:
    """CLIP's text tower over OpenAI's vocabulary, with heads of 64."""
    return TextConfig(CONTEXT, VOCABULARY, width, layers, width // 64, activation=activation)


def siglip_vision(image_size: int, patch: int, size: tuple[int, int, int, int], activation: str = "gelu") -> VisionConfig:
    """SigLIP's image tower of ``size`` (width, layers, heads, hidden): no class token, attention pooling, no projection."""
    width, layers, heads, hidden = size
    return VisionConfig(
        image_size, patch, width, layers, heads, mlp_width=hidden, activation=activation, norm_eps=1e-6,
        class_token=False, patch_bias=True, input_norm=False, pool="attention", projection="none",
        ignore_remainder=image_size % patch != 0, weights="siglip",
    )  # fmt: skip


def siglip_text(
    context: int, vocabulary: int, size: tuple[int, int, int, int], activation: str = "gelu", projection: str = "linear"
) -> TextConfig:
    """SigLIP's text tower of ``size`` (width, layers, heads, hidden): no mask, read at the last position."""
    width, layers, heads, hidden = size
    return TextConfig(
        context, vocabulary, width, layers, heads, mlp_width=hidden, activation=activation, norm_eps=1e-6,
        causal=False, pool="last", projection=projection, weights="siglip",
    )  # fmt: skip


def eva_vision(image_size: int, patch: int, size: tuple[int, int, int, int], block: str) -> VisionConfig:
    """EVA's image tower of ``size`` (width, layers, heads, hidden). ``block`` is "plain" (EVA-01), "post_norm" (EVA-02-E) or
    "eva02" (rotary positions, SwiGLU, inner norms)."""
    width, layers, heads, hidden = size
    config = VisionConfig(
        image_size, patch, width, layers, heads, mlp_width=hidden, activation="gelu", norm_eps=1e-6,
        patch_bias=True, input_norm=False, key_bias=False, projection="linear", weights="eva",
    )  # fmt: skip
    if block == "eva02":
        return replace(config, activation="silu", gated=True, sub_norm=True, rope_grid=16)
    return replace(config, post_norm=block == "post_norm")
