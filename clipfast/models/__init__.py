"""CLIP, SigLIP and EVA-CLIP models from one set of towers, with OpenAI's parameter names."""

from clipfast.models.checkpoints import (
    LoadReport,
    config_from_state_dict,
    export_state_dict,
    load_checkpoint,
    read_state_dict,
    save_checkpoint,
)
from clipfast.models.clip_config import ClipConfig
from clipfast.models.clip_model import CLIP
from clipfast.models.half_precision import convert_weights
from clipfast.models.named import create_model, list_models, model_config
from clipfast.models.resnet import ModifiedResNet
from clipfast.models.text_tower import TextTower
from clipfast.models.tower_configs import BagOfWordsConfig, ResNetConfig, TextConfig, VisionConfig
from clipfast.models.transformer import Transformer
from clipfast.models.vision_tower import VisionTransformer

__all__ = [
    "CLIP",
    "BagOfWordsConfig",
    "ClipConfig",
    "LoadReport",
    "ModifiedResNet",
    "ResNetConfig",
    "TextConfig",
    "TextTower",
    "Transformer",
    "VisionConfig",
    "VisionTransformer",
    "config_from_state_dict",
    "convert_weights",
    "create_model",
    "export_state_dict",
    "list_models",
    "load_checkpoint",
    "model_config",
    "read_state_dict",
    "save_checkpoint",
]
