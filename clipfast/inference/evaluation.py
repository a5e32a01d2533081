"""Metrics of a model on files: zero-shot classification and retrieval."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, replace
from logging import getLogger
from typing import Any

import torch
from torch import Tensor

from clipfast.data.batches import PictureBatch, Tokenize
from clipfast.data.data_config import DataConfig
from clipfast.data.data_sources import is_shards, open_records
from clipfast.data.evaluation_pictures import described_pictures, pictures_of
from clipfast.data.records import NothingReadableError
from clipfast.images.preprocess import Preprocess
from clipfast.inference.retrieval import recall_at_k
from clipfast.inference.zero_shot import ZeroShotClassifier, evaluation

RECALLS = (1, 5, 10)


def zero_shot_metrics(
    model: Any, config: DataConfig, transform: Preprocess, tokenize: Tokenize, *, batch_size: int = 256
) -> dict[str, float]:
    """``top1`` and ``top5``: the shares of pictures whose class is the first, or among the first five, of all classes.

    ``config.source`` is a folder with one folder for each class, or a table whose ``caption_key`` is the class.
    ``config.templates`` make the prompts, as in ``ZeroShotClassifier``. The result also has the numbers of ``pictures`` and of
    ``skipped`` ones, each of which is named in the log. Pictures are encoded ``batch_size`` at a time, and only a batch's
    features and logits are kept. Raises ``NothingReadableError`` if no picture can be read.
    """
    config.refuse("an evaluation reads every picture once", "samples", "distinct")
    if is_shards(config):
        raise ValueError(
            "source must be class folders or a table of pictures and classes, for zero-shot classification; "
            f"got {config.source}"
        )
    records = open_records(replace(config, templates=("{}",)))  # so that the caption of a picture is its class's name
    names = records.labels()
    if not names:
        raise NothingReadableError(f"{config.source} must have a readable class name; got none")
    classifier = ZeroShotClassifier(model, names, config.templates, tokenize)
    numbers = {name: number for number, name in enumerate(names)}
    counts = _Counts()
    hits = torch.zeros(2, dtype=torch.float64)
    for batch in counts.over(pictures_of(records, transform, batch_size, config.workers), config.source):
        found = classifier.logits(batch.images).topk(min(5, len(names)), dim=1).indices.cpu()
        right = found == torch.tensor([[numbers[_only(captions)]] for captions in batch.captions])
        hits += torch.stack([right[:, 0].sum(), right.sum()])
    top1, top5 = (hits / counts.pictures).tolist()
    return {"top1": top1, "top5": top5, **counts.metrics()}


def retrieval_metrics(
    model: Any, config: DataConfig, transform: Preprocess, tokenize: Tokenize, *, batch_size: int = 256
) -> dict[str, float]:
    """Recall at 1, 5 and 10, each if there are so many pictures and texts: ``image_to_text_recall@1`` ...

    ``config.source`` is a table or tar shards; a picture may have several captions, in a list or in several rows. The result
    also has the numbers of ``pictures``, ``texts`` and ``skipped`` pictures, each of which is named in the log. All
    features are kept, but their similarities only one tile at a time.

    Raises ``NothingReadableError`` if no picture can be read.
    """
    config.refuse("an evaluation reads every picture once", "samples", "distinct")
    counts, images, texts = _Counts(), [], []
    captions_each: list[int] = []
    for batch in counts.over(described_pictures(config, transform, batch_size), config.source):
        images.append(_encoded(model, model.encode_image, batch.images))
        for captions in _at_once(batch.captions, batch_size):
            texts.append(_encoded(model, model.encode_text, tokenize(captions)))
        captions_each += map(len, batch.captions)
    pictures, described = torch.cat(images), torch.cat(texts)
    targets = torch.arange(len(pictures)).repeat_interleave(torch.tensor(captions_each)).to(pictures.device)
    ks = [k for k in RECALLS if k <= min(len(pictures), len(described))]
    found = recall_at_k(pictures, described, ks, targets)
    recalls = {f"{way}_recall@{k}": share for way, shares in found.items() for k, share in shares.items()}
    return {**recalls, "texts": len(described), **counts.metrics()}


@dataclass
class _Counts:
    """Counts pictures as batches pass, and logs those that were left out."""

    pictures: int = 0
    skipped: int = 0

    def over(self, batches: Iterator[PictureBatch], source: str) -> Iterator[PictureBatch]:
        """The batches that have a picture; ``NothingReadableError`` at the end if none had one."""
        first = None
        for batch in batches:
            for where, why in batch.skipped:
                getLogger("clipfast").warning("left out of the evaluation: %s: %s", where, why)
                first = first or f"; {where}: {why}"
            self.pictures, self.skipped = self.pictures + len(batch.images), self.skipped + len(batch.skipped)
            if len(batch.images):
                yield batch
        if not self.pictures:
            raise NothingReadableError(f"{source} must have a readable picture; got none{first or ''}")

    def metrics(self) -> dict[str, float]:
        return {"pictures": self.pictures, "skipped": self.skipped}


def _only(captions: tuple[str, ...]) -> str:
    """The class of a picture, which is its only caption."""
    if len(captions) > 1:
        raise ValueError(f"a picture must have one class for zero-shot classification; got {', '.join(captions)}")
    return captions[0]


def _encoded(model: Any, encode: Callable[[Tensor], Tensor], inputs: Tensor) -> Tensor:
    with evaluation(model):
        return encode(inputs.to(model.logit_scale.device))


def _at_once(captions: Iterable[tuple[str, ...]], size: int) -> Iterator[list[str]]:
    """The captions of all pictures, ``size`` at a time."""
    listed = [caption for several in captions for caption in several]
    return (listed[first : first + size] for first in range(0, len(listed), size))
