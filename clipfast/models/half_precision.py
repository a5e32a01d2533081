"""Half precision of those parameters that are float16 in OpenAI's released weights."""

from __future__ import annotations

import torch
from torch import nn

from clipfast.models.attention import Attention, AttentionPool

HALF_MODULES = (nn.Conv1d, nn.Conv2d, nn.Linear)


def convert_weights(model: nn.Module, dtype: torch.dtype = torch.float16) -> None:
    """Convert convolutions, linear layers, attention's projections and both towers' last projections to ``dtype``, in place.

    Norms, positions, the class token, the token embedding and the temperature keep their dtype, as in OpenAI's
    ``convert_weights``. Meant for a GPU: the forward pass then runs in ``dtype``, except for the norms in float32.
    """
    for module in model.modules():
        if isinstance(module, HALF_MODULES):
            _convert(module.weight, dtype)
            _convert(module.bias, dtype)
        elif isinstance(module, Attention | AttentionPool):
            for name in ("in_proj_weight", "in_proj_bias", "q_bias", "v_bias"):
                _convert(getattr(module, name, None), dtype)
        for name in ("text_projection", "proj"):
            value = getattr(module, name, None)
            _convert(value if isinstance(value, nn.Parameter) else None, dtype)


def _convert(parameter: torch.Tensor | None, dtype: torch.dtype) -> None:
    if parameter is not None:
        parameter.data = parameter.data.to(dtype)
