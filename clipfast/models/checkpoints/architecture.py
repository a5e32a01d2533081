"""The configuration of a CLIP model from the names and shapes of its parameters."""

from __future__ import annotations

import math
from collections.abc import Mapping

from torch import Tensor

from clipfast.models.clip_config import ClipConfig
from clipfast.models.tower_configs import ResNetConfig, TextConfig, VisionConfig

HEAD_WIDTH = 64


def config_from_state_dict(state: Mapping[str, Tensor], activation: str = "quick_gelu") -> ClipConfig:
    """The configuration of a checkpoint with OpenAI's names, as OpenAI's ``build_model`` derives it.

    The shapes do not tell the width of a head, which is 64 in all of OpenAI's models, nor the ``activation``, which is "gelu"
    in most of OpenCLIP's. Raises ValueError if a name is missing: then use ``create_model`` with the model's name.
    """
    try:
        vision = _vision(state, activation) if "visual.proj" in state else _resnet(state)
        width = state["ln_final.weight"].shape[0]
        layers = _count(state, "transformer.resblocks.")
        context, vocabulary = state["positional_embedding"].shape[0], state["token_embedding.weight"].shape[0]
        text = TextConfig(context, vocabulary, width, layers, width // HEAD_WIDTH, activation=activation)
        return ClipConfig(state["text_projection"].shape[1], vision, text)
    except KeyError as error:
        raise ValueError(
            f"state must have the names of OpenAI's CLIP models; got none called {error.args[0]!r}; create the model by its "
            "name or configuration (create_model), and fill it with load_checkpoint"
        ) from error


def _vision(state: Mapping[str, Tensor], activation: str) -> VisionConfig:
    width, _, _, patch = state["visual.conv1.weight"].shape
    grid = math.isqrt(state["visual.positional_embedding"].shape[0] - 1)
    layers = _count(state, "visual.transformer.resblocks.")
    channels = state["visual.conv1.weight"].shape[1]
    hidden = state["visual.transformer.resblocks.0.mlp.c_fc.weight"].shape[0]
    return VisionConfig(
        patch * grid, patch, width, layers, width // HEAD_WIDTH, channels, mlp_width=hidden, activation=activation
    )


def _resnet(state: Mapping[str, Tensor]) -> ResNetConfig:
    width = state["visual.layer1.0.conv1.weight"].shape[0]
    grid = math.isqrt(state["visual.attnpool.positional_embedding"].shape[0] - 1)
    one, two, three, four = (_count(state, f"visual.layer{stage}.") for stage in (1, 2, 3, 4))
    return ResNetConfig(32 * grid, (one, two, three, four), width, 32 * width // HEAD_WIDTH)


def _count(state: Mapping[str, Tensor], prefix: str) -> int:
    """How many different numbers follow the prefix."""
    return len({name.removeprefix(prefix).split(".")[0] for name in state if name.startswith(prefix)})
