"""CLIP, SigLIP and EVA-CLIP from one vocabulary of towers, with OpenAI's parameter names."""

from clipfast.models.clip import CLIP
from clipfast.models.config import BagOfWordsConfig, ClipConfig, ResNetConfig, TextConfig, VisionConfig
from clipfast.models.named import create_model, list_models, model_config
from clipfast.models.precision import convert_weights
from clipfast.models.resnet import ModifiedResNet
from clipfast.models.text import TextTower
from clipfast.models.transformer import Transformer
from clipfast.models.vision import VisionTransformer

__all__ = [
    "CLIP",
    "BagOfWordsConfig",
    "ClipConfig",
    "ModifiedResNet",
    "ResNetConfig",
    "TextConfig",
    "TextTower",
    "Transformer",
    "VisionConfig",
    "VisionTransformer",
    "convert_weights",
    "create_model",
    "list_models",
    "model_config",
]
