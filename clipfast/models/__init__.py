"""Models to train with the losses: CLIP with a vision transformer, with OpenAI's parameter names."""

from clipfast.models.clip import CLIP
from clipfast.models.config import ClipConfig, TextConfig, VisionConfig
from clipfast.models.text import TextTower
from clipfast.models.transformer import Transformer
from clipfast.models.vision import VisionTransformer

__all__ = ["CLIP", "ClipConfig", "TextConfig", "TextTower", "Transformer", "VisionConfig", "VisionTransformer"]
