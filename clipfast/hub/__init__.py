"""Pretrained models by name or from files, as in OpenAI's clip package."""

from clipfast.hub.pretrained import available_models, load

__all__ = ["available_models", "load"]
