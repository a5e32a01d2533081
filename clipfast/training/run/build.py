"""The model of a run, and the tokenizer that goes with it."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from pathlib import Path

import torch
from torch import Tensor

from clipfast.inference.classify import tokenizer_from
from clipfast.models import CLIP, create_model, load_checkpoint
from clipfast.text.tokenizer import VOCABULARY_SIZE, default_tokenizer
from clipfast.training.settings.parse import ConfigError, named
from clipfast.training.settings.train_config import ModelConfig

Tokenize = Callable[[list[str]], Tensor]


def build_model(config: ModelConfig, device: torch.device, dtype: torch.dtype) -> CLIP:
    """The configured model with fresh weights from torch's generator, or with those of the file ``config.weights``."""
    model = create_model(config.shape)
    if config.weights is not None:
        with named("model.weights"):
            load_checkpoint(model, config.weights)
    if config.lock_image_tower:
        model.lock_image_tower(freeze_bn_stats=True)
    model.set_grad_checkpointing(config.gradient_checkpointing)
    return model.to(device, dtype)


def build_tokenizer(config: ModelConfig) -> Tokenize:
    """OpenAI's tokenizer, or that of ``config.sentencepiece``; both cut off the end of a caption that is too long.

    ConfigError if the model has another vocabulary.
    """
    text = config.shape.text
    if config.sentencepiece is not None:
        with named("model.sentencepiece"):
            tokenizer = tokenizer_from(Path(config.sentencepiece), text)
        assert tokenizer is not None
        if tokenizer.vocab_size > text.vocab_size:
            raise ConfigError(
                f"model.sentencepiece must have at most the model's {text.vocab_size} pieces; got {tokenizer.vocab_size}; give "
                "the file that belongs to the model, or a model with that vocab_size"
            )
        return tokenizer
    if text.vocab_size != VOCABULARY_SIZE:
        raise ConfigError(
            f"the model's vocabulary must be that of OpenAI's tokenizer, {VOCABULARY_SIZE} ids; got {text.vocab_size}; give "
            "the model's own tokenizer as model.sentencepiece, or choose a model with OpenAI's vocabulary"
        )
    return partial(default_tokenizer(), context_length=text.context_length, truncate=True)
