"""Zero-shot classification: a linear classifier whose weights are the embeddings of prompts."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from clipfast.inference.retrieval import check_k
from clipfast.text.prompts import DEFAULT_TEMPLATE, Template, fill, has_place_for_name
from clipfast.text.tokenizer import CONTEXT_LENGTH, default_tokenizer

TextTokenizer = Callable[[list[str]], Tensor]
PROMPTS_AT_ONCE = 256


class ZeroShotClassifier:
    """C classes given by name: their prompts are embedded once, then images are compared with them.

    ``templates`` make the prompts of a name: strings with ``{}``, or functions of the name. A class is the mean of its prompts'
    normalised embeddings, normalised again (Radford et al., 2021, section 3.1.4). Names are used as they are: instead of an
    ambiguous one ("crane") give a clearer one ("crane bird"), as OpenAI did for ImageNet.

    ``model`` has ``encode_image``, ``encode_text``, ``logit_scale`` and perhaps ``logit_bias``, as the models of this package
    and of open_clip. It runs in evaluation mode without gradients; then its mode is restored. ``tokenizer`` makes ids of a list
    of texts. The default is OpenAI's, which does not fit models with another vocabulary, such as SigLIP's.

    ``class_features`` (C, D) are float32, on the model's device. Images are (B, 3, size, size), preprocessed.
    """

    def __init__(
        self,
        model: Any,
        class_names: Sequence[str],
        templates: Template | Sequence[Template] = DEFAULT_TEMPLATE,
        tokenizer: TextTokenizer | None = None,
    ) -> None:
        self.model = model
        self.class_names = _checked_names(class_names)
        self.class_features = _class_features(
            model, self.class_names, _checked_templates(templates), tokenizer or _tokenizer_of(model)
        )

    def __repr__(self) -> str:
        classes, width = self.class_features.shape
        return f"ZeroShotClassifier({classes} classes, features of width {width})"

    def logits(self, images: Tensor) -> Tensor:
        """float32 (B, C): scaled cosines, plus the bias of a sigmoid model."""
        with evaluation(self.model):
            return self.logits_of(self.model.encode_image(images.to(self.class_features.device)))

    @torch.no_grad()
    def logits_of(self, image_features: Tensor) -> Tensor:
        """As ``logits``, from features (B, D) of ``model.encode_image``, which need not be normalised."""
        images = F.normalize(image_features.float(), dim=1)
        logits = self.model.logit_scale.float().exp() * images @ self.class_features.T
        return logits if self._bias is None else logits + self._bias.float()

    def probabilities(self, images: Tensor) -> Tensor:
        """float32 (B, C): the softmax over the classes, or for a sigmoid model each class's own probability."""
        logits = self.logits(images)
        return logits.softmax(dim=1) if self._bias is None else logits.sigmoid()

    def predict(self, images: Tensor) -> Tensor:
        """int64 (B,): the place in ``class_names`` of the best class."""
        return self.logits(images).argmax(dim=1)

    def top_k(self, images: Tensor, k: int = 5) -> tuple[Tensor, Tensor]:
        """The k best classes in order: probabilities, and int64 places in ``class_names``, both (B, k)."""
        check_k(k, len(self.class_names))
        values, places = self.probabilities(images).topk(k, dim=1)
        return values, places

    @property
    def _bias(self) -> Tensor | None:
        return getattr(self.model, "logit_bias", None)


@contextmanager
def evaluation(model: nn.Module) -> Iterator[None]:
    """``model`` in evaluation mode and without gradients; at the end every module's mode is restored."""
    modes = [(module, module.training) for module in model.modules()]
    model.eval()
    try:
        with torch.no_grad():
            yield
    finally:
        for module, mode in modes:
            module.training = mode


def _class_features(model: Any, names: list[str], templates: list[Template], tokenizer: TextTokenizer) -> Tensor:
    """(C, D), computed some classes at a time, as the embeddings of all prompts may not fit in memory."""
    classes = max(1, PROMPTS_AT_ONCE // len(templates))
    found = []
    with evaluation(model):
        for start in range(0, len(names), classes):
            prompts = [fill(template, name) for name in names[start : start + classes] for template in templates]
            features = model.encode_text(tokenizer(prompts).to(model.logit_scale.device)).float()
            means = F.normalize(features, dim=1).view(-1, len(templates), features.shape[1]).mean(dim=1)
            found.append(F.normalize(means, dim=1))
    return torch.cat(found)


def _tokenizer_of(model: Any) -> TextTokenizer:
    """OpenAI's tokenizer with the model's context length."""
    tokenizer, vocabulary = default_tokenizer(), getattr(model, "vocab_size", None)
    if vocabulary is not None and int(vocabulary) != tokenizer.vocab_size:
        raise ValueError(
            f"tokenizer must be given for a model with another vocabulary than OpenAI's {tokenizer.vocab_size} ids; got a "
            f"model with {int(vocabulary)}; for SigLIP pass a clipfast.SentencePieceTokenizer"
        )
    return partial(tokenizer, context_length=int(getattr(model, "context_length", CONTEXT_LENGTH)))


def _checked_names(names: Sequence[str]) -> list[str]:
    if isinstance(names, str) or not all(isinstance(name, str) for name in names):
        raise TypeError(f"class_names must be a list of strings, one for each class; got {names!r}")
    if not names:
        raise ValueError("class_names must be one name or more; got none")
    return list(names)


def _checked_templates(templates: Template | Sequence[Template]) -> list[Template]:
    listed = [templates] if isinstance(templates, str) or callable(templates) else list(templates)
    if not listed:
        raise ValueError('templates must be one or more, such as "a photo of a {}."; got none')
    for template in listed:
        if not (callable(template) or has_place_for_name(template)):
            raise ValueError(f"a template must be a string with {{}} for the name, or a function of the name; got {template!r}")
    return listed
