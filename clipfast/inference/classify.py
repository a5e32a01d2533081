"""The work of ``python -m clipfast classify``: comparing pictures in files with labels."""

from __future__ import annotations

import csv
import io
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from clipfast.common.files import write_atomically
from clipfast.images.pictures import UnreadableError, read_picture
from clipfast.inference.zero_shot import ZeroShotClassifier
from clipfast.text.siglip_tokenizer import SentencePieceTokenizer

SIGLIP2_VOCABULARY = 256_000


@dataclass(frozen=True)
class Result:
    """A picture's best labels with their probabilities, the best first, or the reason why it could not be read."""

    path: Path
    best: tuple[tuple[str, float], ...] = ()
    error: str | None = None


def read_lines(path: Path, what: str) -> list[str]:
    """The lines of a UTF-8 file that are not blank."""
    try:
        lines = [line.strip() for line in path.read_text("utf-8-sig").splitlines()]
    except (OSError, UnicodeDecodeError) as error:
        raise ValueError(f"the {what} cannot be read from {path}: {error}") from error
    if not any(lines):
        raise ValueError(f"{path} must have one or more {what}, each on a line; got none")
    return [line for line in lines if line]


def labels_from(text: str | None, file: Path | None) -> list[str]:
    """The labels, from exactly one of ``--labels`` and ``--labels-file``."""
    if (text is None) == (file is None):
        raise ValueError(
            f"exactly one of --labels and --labels-file must be given; got {'neither' if text is None else 'both'}"
        )
    if file is not None:
        return read_lines(file, "labels")
    assert text is not None
    labels = [label.strip() for label in text.split(",")]
    if not all(labels):
        raise ValueError(f"--labels must be separated by single commas, as in a,b,c; got an empty label in {text!r}")
    return labels


def tokenizer_from(file: Path | None, model: Any) -> SentencePieceTokenizer | None:
    """SigLIP's tokenizer for ``model``, from a SentencePiece file; None, which stands for OpenAI's tokenizer, without a file.

    SigLIP 2, known by its vocabulary, pads with 0; SigLIP pads with the id of the end.
    """
    if file is None:
        return None
    return SentencePieceTokenizer(file, model.context_length, 0 if model.vocab_size == SIGLIP2_VOCABULARY else None)


def classify(
    paths: Iterable[Path],
    classifier: ZeroShotClassifier,
    preprocess: Callable[[Any], Tensor],
    k: int = 1,
    batch_size: int = 32,
) -> Iterator[Result]:
    """One result for each path, in their order, with the best ``k`` classes, or all if there are fewer."""
    pending = iter(paths)
    while batch := list(islice(pending, batch_size)):
        read = [_read(path, preprocess) for path in batch]
        pictures = [picture for picture in read if isinstance(picture, Tensor)]
        best = iter(_best(classifier, pictures, k))
        for path, picture in zip(batch, read, strict=True):
            yield Result(path, next(best)) if isinstance(picture, Tensor) else Result(path, error=picture)


def _best(classifier: ZeroShotClassifier, pictures: Sequence[Tensor], k: int) -> list[tuple[tuple[str, float], ...]]:
    if not pictures:
        return []
    values, places = classifier.top_k(torch.stack(list(pictures)), min(k, len(classifier.class_names)))
    names = [[classifier.class_names[place] for place in row] for row in places.tolist()]
    return [tuple(zip(*pair, strict=True)) for pair in zip(names, values.tolist(), strict=True)]


def _read(path: Path, preprocess: Callable[[Any], Tensor]) -> Tensor | str:
    """The preprocessed picture, or why there is none."""
    try:
        return read_picture(path, preprocess)
    except UnreadableError as error:
        return str(error)


def write_csv(path: Path, results: Iterable[Result]) -> None:
    """One line for each picture and rank: image, rank, label, probability, error. Written whole or not at all."""
    text = io.StringIO(newline="")
    writer = csv.writer(text)
    writer.writerow(("image", "rank", "label", "probability", "error"))
    for result in results:
        if result.error is not None:
            writer.writerow((result.path, "", "", "", result.error))
        for rank, (label, probability) in enumerate(result.best, 1):
            writer.writerow((result.path, rank, label, f"{probability:.6g}", ""))
    write_atomically(path, lambda file: file.write(text.getvalue().encode("utf-8", "surrogateescape")))
