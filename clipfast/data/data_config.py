"""The data to train or evaluate on: one table of a configuration file."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from clipfast.common.argument_checks import check_choice, check_whole_number
from clipfast.images.preprocess import Preprocess, RandomCrop
from clipfast.text.prompts import DEFAULT_TEMPLATE, has_place_for_name


@dataclass(frozen=True)
class DataConfig:
    """Pairs of pictures and captions; docs/guides/data.md has an example of each source.

    ``source`` is a table (.csv, .tsv, .jsonl), a folder with one folder for each class, or WebDataset tar shards, such as
    "shards/{0000..0099}.tar". ``image_key`` and ``caption_key`` are columns of a table (by default "image" and "caption"), or
    the endings of a shard's members ("jpg;jpeg;png;webp" and "txt"). Relative paths in a table start from ``root``, by default
    the table's folder. The captions of a class folder are ``templates`` filled with its name.

    ``samples`` is the number of pairs in an epoch: by default, and at most, all of them. Tar shards need it.
    ``augment="crop"`` trains on a random part of each picture with at least ``min_scale`` of its area, "none" on the pictures
    as evaluation sees them. ``distinct`` names a column, or "class" for class folders, whose values are unique within a batch.
    From tar shards, batches are drawn at random from a buffer of ``shuffle`` pairs per process.
    ``workers`` processes read pictures; with 0 the training process reads them.
    """

    source: str
    image_key: str | None = None
    caption_key: str | None = None
    root: str | None = None
    templates: tuple[str, ...] = (DEFAULT_TEMPLATE,)
    samples: int | None = None
    augment: str = "crop"
    min_scale: float = 0.9
    distinct: str | None = None
    shuffle: int = 4096
    workers: int = 2

    AUGMENTS: ClassVar[tuple[str, ...]] = ("crop", "none")

    def __post_init__(self) -> None:
        for name in ("source", "image_key", "caption_key", "root", "distinct"):
            _check_text(name, getattr(self, name), optional=name != "source")
        object.__setattr__(self, "templates", _checked_templates(self.templates))
        check_choice("augment", self.augment, self.AUGMENTS)
        for name, least in (("samples", 1), ("shuffle", 0), ("workers", 0)):
            if getattr(self, name) is not None or name != "samples":
                check_whole_number(name, getattr(self, name), least)
        if not (isinstance(self.min_scale, (int, float)) and 0 < self.min_scale <= 1):
            raise ValueError(f"min_scale must be a share of the picture's area, above 0 and at most 1; got {self.min_scale!r}")

    def refuse(self, reason: str, *names: str) -> None:
        """ValueError, with ``reason``, if one of the keys ``names`` is given, as it would have no effect."""
        for name in names:
            if (value := getattr(self, name)) is not None:
                raise ValueError(f"{name} must be left out for {self.source}; got {value!r}; {reason}")

    def training_transform(self, evaluation: Preprocess) -> Preprocess | RandomCrop:
        """The preprocessing of training's pictures, with the size and the colours of ``evaluation``."""
        if self.augment == "none":
            return evaluation
        pixels = {name: getattr(evaluation, name) for name in ("size", "mean", "std", "interpolation")}
        return RandomCrop(**pixels, scale=(self.min_scale, 1.0))


def _check_text(name: str, value: object, optional: bool) -> None:
    if not (isinstance(value, str) and value) and not (value is None and optional):
        raise ValueError(f"{name} must be a non-empty text; got {value!r}")


def _checked_templates(templates: object) -> tuple[str, ...]:
    listed = tuple(templates) if isinstance(templates, (list, tuple)) else ()
    if not listed or not all(map(has_place_for_name, listed)):
        raise ValueError(f"templates must be a list of texts, one or more, with {{}} where the name goes; got {templates!r}")
    return listed
