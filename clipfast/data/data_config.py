"""What to train or evaluate on, as one table of a configuration file."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from clipfast.images.preprocess import Preprocess, RandomCrop, one_of
from clipfast.inference.zero_shot import DEFAULT_TEMPLATE


@dataclass(frozen=True)
class DataConfig:
    """Pairs of pictures and captions; docs/guides/data.md has an example of each source.

    ``source`` is a table (.csv, .tsv, .jsonl), a folder with one folder for each class, or WebDataset tar shards, such as
    "shards/{0000..0099}.tar". ``image_key`` and ``caption_key`` are columns ("image", "caption"), in shards the endings of
    the members ("jpg;jpeg;png;webp", "txt"). Relative paths in a table start from ``root``, by default the table's folder.
    The captions of a class folder are ``templates`` with its name.

    ``samples`` is the number of pairs in an epoch: at most all of them, which is the default; tar shards need it.
    ``augment="crop"`` trains on a random part of each picture with at least ``min_scale`` of its area, "none" on what
    evaluation sees. ``distinct`` names a column, or "class" of a class folder, of which no value comes twice in a batch.
    Of tar shards ``shuffle`` pairs per process are held back, from which batches are drawn at random.
    ``workers`` processes read pictures; 0 reads them in the training's own.
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
        one_of("augment", self.augment, self.AUGMENTS)
        for name, least in (("samples", 1), ("shuffle", 0), ("workers", 0)):
            _check_number(name, getattr(self, name), least, optional=name == "samples")
        if not (isinstance(self.min_scale, (int, float)) and 0 < self.min_scale <= 1):
            raise ValueError(f"min_scale is a share of the picture's area, above 0 and at most 1; got {self.min_scale!r}")

    def refuse(self, reason: str, *names: str) -> None:
        """ValueError if one of the keys ``names`` is given, which would have no effect."""
        for name in names:
            if (value := getattr(self, name)) is not None:
                raise ValueError(f"{name} = {value!r} has no meaning for {self.source}: {reason}; leave it out")

    def training_transform(self, evaluation: Preprocess) -> Preprocess | RandomCrop:
        """What training does with a picture, at the size and in the colours of ``evaluation``."""
        if self.augment == "none":
            return evaluation
        pixels = {name: getattr(evaluation, name) for name in ("size", "mean", "std", "interpolation")}
        return RandomCrop(**pixels, scale=(self.min_scale, 1.0))


def _check_text(name: str, value: object, optional: bool) -> None:
    if not (isinstance(value, str) and value) and not (value is None and optional):
        raise ValueError(f"{name} must be a text that is not empty; got {value!r}")


def _check_number(name: str, value: object, least: int, optional: bool) -> None:
    if value is None and optional:
        return
    if isinstance(value, bool) or not isinstance(value, int) or value < least:
        raise ValueError(f"{name} must be a whole number, at least {least}; got {value!r}")


def _checked_templates(templates: object) -> tuple[str, ...]:
    listed = tuple(templates) if isinstance(templates, (list, tuple)) else ()
    if not listed or not all(isinstance(template, str) and "{}" in template for template in listed):
        raise ValueError(f"templates is a list of one or more texts with {{}} where the name goes; got {templates!r}")
    return listed
