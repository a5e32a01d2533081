"""The published models by name, as tables of their sizes, and small models for a CPU."""

from __future__ import annotations

from dataclasses import replace
from difflib import get_close_matches
from functools import cache

import torch

from clipfast.models.clip_config import ClipConfig
from clipfast.models.clip_model import CLIP
from clipfast.models.families import CONTEXT, VOCABULARY, clip_text, eva_vision, siglip_text, siglip_vision
from clipfast.models.tower_configs import BagOfWordsConfig, ResNetConfig, VisionConfig

# OpenAI: embed, picture, stages' blocks, width, text width.
_RESNETS = {
    "RN50": (1024, 224, (3, 4, 6, 3), 64, 512),
    "RN101": (512, 224, (3, 4, 23, 3), 64, 512),
    "RN50x4": (640, 288, (4, 6, 10, 6), 80, 640),
    "RN50x16": (768, 384, (6, 8, 18, 8), 96, 768),
    "RN50x64": (1024, 448, (3, 15, 36, 10), 128, 1024),
}
# OpenAI's and OpenCLIP's: embed, picture, patch, width, layers, heads, hidden, text width, text layers.
_VITS = {
    "ViT-B-32": (512, 224, 32, 768, 12, 12, 3072, 512, 12),
    "ViT-B-16": (512, 224, 16, 768, 12, 12, 3072, 512, 12),
    "ViT-L-14": (768, 224, 14, 1024, 24, 16, 4096, 768, 12),
    "ViT-L-14-336": (768, 336, 14, 1024, 24, 16, 4096, 768, 12),
    "ViT-H-14": (1024, 224, 14, 1280, 32, 16, 5120, 1024, 24),
    "ViT-g-14": (1024, 224, 14, 1408, 40, 16, 6144, 1024, 24),
    "ViT-bigG-14": (1280, 224, 14, 1664, 48, 16, 8192, 1280, 32),
}
_OPENAI = {
    "ViT-B/32": "ViT-B-32",
    "ViT-B/16": "ViT-B-16",
    "ViT-L/14": "ViT-L-14",
    "ViT-L/14@336px": "ViT-L-14-336",
}
# SigLIP, of either tower: width, layers, heads, hidden.
_SIGLIP_SIZES = {
    "B": (768, 12, 12, 3072),
    "L": (1024, 24, 16, 4096),
    "SO400M": (1152, 27, 16, 4304),
    "gopt": (1536, 40, 16, 6144),
}
# For each patch size the sizes of pictures; a name without a size stands for 224 pixels.
_SIGLIP: dict[str, dict[int, tuple[int, ...]]] = {
    "B": {16: (224, 256, 384, 512)},
    "L": {16: (256, 384)},
    "SO400M": {14: (224, 378, 384)},
}
_SIGLIP2: dict[str, dict[int, tuple[int, ...]]] = {
    "B": {16: (224, 256, 384, 512), 32: (256,)},
    "L": {16: (256, 384, 512)},
    "SO400M": {14: (224, 378), 16: (256, 384, 512)},
    "gopt": {16: (256, 384)},
}
# EVA: embed, picture, patch, width, layers, heads, hidden, block, text width, text layers.
_EVA = {
    "EVA01-g-14": (1024, 224, 14, 1408, 40, 16, 6144, "plain", 768, 12),
    "EVA01-g-14-plus": (1024, 224, 14, 1408, 40, 16, 6144, "plain", 1024, 24),
    "EVA02-B-16": (512, 224, 16, 768, 12, 12, 2048, "eva02", 512, 12),
    "EVA02-L-14": (768, 224, 14, 1024, 24, 16, 2730, "eva02", 768, 12),
    "EVA02-L-14-336": (768, 336, 14, 1024, 24, 16, 2730, "eva02", 768, 12),
    "EVA02-E-14": (1024, 224, 14, 1792, 64, 16, 15360, "post_norm", 1024, 24),
    "EVA02-E-14-plus": (1024, 224, 14, 1792, 64, 16, 15360, "post_norm", 1280, 32),
}


def _resnets() -> dict[str, ClipConfig]:
    configs = {}
    for name, (embed, image, layers, width, text) in _RESNETS.items():
        vision = ResNetConfig(image, layers, width, heads=width * 32 // 64)
        configs[name] = ClipConfig(embed, vision, clip_text(text, 12, "quick_gelu"))
        configs[f"{name}-quickgelu"] = configs[name]
    return configs


def _vits() -> dict[str, ClipConfig]:
    configs = {}
    for name, (embed, image, patch, width, layers, heads, hidden, text_width, text_layers) in _VITS.items():
        vision = VisionConfig(image, patch, width, layers, heads, mlp_width=hidden, activation="gelu")
        configs[name] = ClipConfig(embed, vision, clip_text(text_width, text_layers))
        configs[f"{name}-quickgelu"] = configs[name].with_activation("quick_gelu")
    return configs | {openai: configs[f"{name}-quickgelu"] for openai, name in _OPENAI.items()}


def _siglips() -> dict[str, ClipConfig]:
    configs = {}
    for family, table in (("SigLIP", _SIGLIP), ("SigLIP2", _SIGLIP2)):
        for size, patches in table.items():
            for patch, images in patches.items():
                for image in images:
                    name = f"ViT-{size}-{patch}-{family}" + ("" if image == 224 else f"-{image}")
                    configs[name] = _siglip(size, patch, image, second=family == "SigLIP2")
    base = configs["ViT-B-16-SigLIP-256"]
    configs["ViT-B-16-SigLIP-i18n-256"] = replace(base, text=siglip_text(64, 250_000, _SIGLIP_SIZES["B"]))
    shape = _SIGLIP_SIZES["SO400M"]
    vision, text = siglip_vision(256, 16, shape, "gelu_tanh"), siglip_text(64, 250_000, shape, projection="none")
    configs["ViT-SO400M-16-SigLIP-i18n-256"] = ClipConfig(1152, vision, text, "sigmoid")
    return configs


def _siglip(size: str, patch: int, image: int, second: bool) -> ClipConfig:
    """With OpenCLIP's activations: GELU, approximated by tanh where OpenCLIP's or timm's configuration of the model says so."""
    shape, text_shape = _SIGLIP_SIZES[size], _SIGLIP_SIZES["SO400M" if size == "gopt" else size]
    tanh = patch == 32 or size == "gopt" or (size, image) == ("L", 512) or (size, patch) == ("SO400M", 16)
    context = 16 if (size, image, second) == ("SO400M", 224, False) else 64
    text = siglip_text(context, 256_000 if second else 32_000, text_shape, "gelu_tanh" if second else "gelu")
    return ClipConfig(shape[0], siglip_vision(image, patch, shape, "gelu_tanh" if tanh else "gelu"), text, "sigmoid")


def _evas() -> dict[str, ClipConfig]:
    configs = {}
    for name, (embed, image, patch, width, layers, heads, hidden, block, text_width, text_layers) in _EVA.items():
        vision = eva_vision(image, patch, (width, layers, heads, hidden), block)
        configs[name] = ClipConfig(embed, vision, clip_text(text_width, text_layers))
    return configs


def _small() -> dict[str, ClipConfig]:
    """For training on a CPU, with pictures of 32 or 64 pixels and OpenAI's vocabulary or SigLIP's."""
    text, size = clip_text(128, 2), (128, 4, 4, 512)
    vit = VisionConfig(32, 4, *size[:3], activation="gelu")
    siglip = ClipConfig(128, siglip_vision(32, 4, size), siglip_text(32, 32_000, (128, 2, 2, 512)), "sigmoid")
    return {
        "ViT-tiny": ClipConfig(128, vit, text),
        "ViT-small": ClipConfig(256, VisionConfig(64, 8, 256, 6, 4, activation="gelu"), clip_text(256, 4)),
        "RN-tiny": ClipConfig(128, ResNetConfig(64, (1, 1, 1, 1), 16, 8), text),
        "SigLIP-tiny": siglip,
        "EVA02-tiny": ClipConfig(128, eva_vision(32, 4, (128, 4, 4, 344), "eva02"), text),
        "CBOW-tiny": ClipConfig(128, vit, BagOfWordsConfig(CONTEXT, VOCABULARY, 128)),
    }


@cache
def _configs() -> dict[str, ClipConfig]:
    return _resnets() | _vits() | _siglips() | _evas() | _small()


def list_models() -> list[str]:
    """Every name that ``create_model`` takes."""
    return sorted(_configs())


def model_config(name: str) -> ClipConfig:
    """The configuration of a named model. Names are OpenAI's ("ViT-B/32", "RN50"), OpenCLIP's ("ViT-B-16-SigLIP",
    "EVA02-B-16"), and for small models this package's own ("ViT-tiny").

    The ResNets are OpenAI's, with QuickGELU in the text tower. "ViT-B-32" has the exact GELU, as OpenCLIP's own weights
    have, and "ViT-B-32-quickgelu" is "ViT-B/32". Raises ValueError with the closest names for an unknown one.
    """
    configs = _configs()
    if name in configs:
        return configs[name]
    by_case = {known.lower(): known for known in configs}
    close = [by_case[match] for match in get_close_matches(name.lower(), by_case, n=5, cutoff=0.5)]
    advice = f"; the closest names are {', '.join(close)}" if close else ""
    raise ValueError(f"name must be one of clipfast.models.list_models(); got {name!r}{advice}")


def create_model(
    name_or_config: str | ClipConfig, *, device: torch.device | str | None = None, dtype: torch.dtype | None = None
) -> CLIP:
    """A model with fresh weights, in training mode, from a name (see ``model_config``) or a ``ClipConfig``.

    The model is made on ``device``; "meta" allocates nothing. ``dtype`` converts all parameters; for OpenAI's mixture of
    half and single precision see ``convert_weights``. ``load_checkpoint`` fills the model with trained weights.
    """
    if isinstance(name_or_config, str):
        config = model_config(name_or_config)
    elif isinstance(name_or_config, ClipConfig):
        config = name_or_config
    else:
        raise TypeError(f"name_or_config must be a model's name or a ClipConfig; got {type(name_or_config).__name__}")
    with torch.device(device if device is not None else torch.get_default_device()):
        model = CLIP(config)
    return model if dtype is None else model.to(dtype)
