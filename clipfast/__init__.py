"""Fused contrastive losses for PyTorch whose memory does not grow with the square of the batch, and the CLIP family of models.

The names of the model package are imported when they are first used: the losses alone need torch and numpy.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

from clipfast.compute.registry import backends
from clipfast.losses import ClipLoss, ClipStats, SigLipLoss, clip_loss, info_nce_loss, nt_xent_loss, siglip_loss
from clipfast.version import __version__ as __version__

if TYPE_CHECKING:
    from clipfast.hub import available_models, load
    from clipfast.images.preprocess import Preprocess, RandomCrop
    from clipfast.inference.retrieval import recall_at_k, top_k
    from clipfast.inference.zero_shot import ZeroShotClassifier
    from clipfast.models import create_model, list_models, load_checkpoint, save_checkpoint
    from clipfast.text.siglip_tokenizer import SentencePieceTokenizer
    from clipfast.text.tokenizer import Tokenizer, tokenize
    from clipfast.training import CachedStep

__all__ = [
    "CachedStep",
    "ClipLoss",
    "ClipStats",
    "Preprocess",
    "RandomCrop",
    "SentencePieceTokenizer",
    "SigLipLoss",
    "Tokenizer",
    "ZeroShotClassifier",
    "available_models",
    "backends",
    "clip_loss",
    "create_model",
    "info_nce_loss",
    "list_models",
    "load",
    "load_checkpoint",
    "nt_xent_loss",
    "recall_at_k",
    "save_checkpoint",
    "siglip_loss",
    "tokenize",
    "top_k",
]

_MODULES = {
    "hub": ("available_models", "load"),
    "models": ("create_model", "list_models", "load_checkpoint", "save_checkpoint"),
    "images.preprocess": ("Preprocess", "RandomCrop"),
    "inference.retrieval": ("recall_at_k", "top_k"),
    "inference.zero_shot": ("ZeroShotClassifier",),
    "text.siglip_tokenizer": ("SentencePieceTokenizer",),
    "text.tokenizer": ("Tokenizer", "tokenize"),
    "training": ("CachedStep",),
}
_LAZY = {name: module for module, names in _MODULES.items() for name in names}


def __getattr__(name: str) -> Any:
    if name not in _LAZY:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    value = globals()[name] = getattr(import_module(f"clipfast.{_LAZY[name]}"), name)
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
