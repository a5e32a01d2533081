"""Pretrained models by name."""

from clipfast.hub.pretrained import available_models, load

__all__ = ["available_models", "load"]
