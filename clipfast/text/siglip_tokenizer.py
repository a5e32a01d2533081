"""SigLIP's tokenizer: a SentencePiece model, provided by the user, applied to canonical text."""

from __future__ import annotations

import os
import string
from collections.abc import Iterable
from pathlib import Path

from torch import Tensor

from clipfast.common.extras import require
from clipfast.text.tokenizer import checked_length, checked_text, listed_texts, padded

_SPACE_FOR_UNDERSCORE = str.maketrans("_", " ", string.punctuation.replace("_", ""))


def canonicalize(text: str) -> str:
    """As big_vision: ``_`` becomes a space, other ASCII punctuation is removed, letters become lower case, spaces collapse."""
    return " ".join(text.translate(_SPACE_FOR_UNDERSCORE).lower().split())


class SentencePieceTokenizer:
    """Strings to ids with the SentencePiece model in file ``path``, which is not part of this package.

    Each row is the text's ids, the end, and padding with ``pad_id``, where None stands for the end's id. SigLIP: context 64
    (So400m-14-224: 16), ``pad_id=None``. SigLIP 2: context 64, ``pad_id=0``. Needs sentencepiece.
    """

    def __init__(self, path: str | os.PathLike[str], context_length: int = 64, pad_id: int | None = None) -> None:
        self.path, self.context_length = Path(path), checked_length(context_length)
        sentencepiece = require("sentencepiece", "SigLIP's tokenizer")
        if not self.path.is_file():
            raise FileNotFoundError(f"there is no SentencePiece model at {path}; it comes with the checkpoint's distribution")
        try:
            self._model = sentencepiece.SentencePieceProcessor(model_file=str(path))
        except (RuntimeError, OSError) as error:
            raise ValueError(f"path must be a SentencePiece model; got {path}: {error}") from error
        self.vocab_size, self.eos_id = self._model.vocab_size(), self._model.eos_id()
        if self.eos_id < 0:
            raise ValueError(
                f"a SentencePiece model must have an end-of-text piece, where SigLIP's text tower is read; got {path}"
            )
        if pad_id is not None and not 0 <= pad_id < self.vocab_size:
            raise ValueError(f"pad_id must be in [0, {self.vocab_size}), or None for the end's id; got {pad_id}")
        self.pad_id = self.eos_id if pad_id is None else pad_id

    def __repr__(self) -> str:
        return f"SentencePieceTokenizer({str(self.path)!r}, context_length={self.context_length}, pad_id={self.pad_id})"

    def __reduce__(self) -> tuple[type[SentencePieceTokenizer], tuple[str, int, int]]:
        return type(self), (str(self.path), self.context_length, self.pad_id)

    def encode(self, text: str) -> list[int]:
        """The ids of ``text`` without its end."""
        return self._model.encode(canonicalize(checked_text(text)))

    def decode(self, ids: Iterable[int] | Tensor) -> str:
        """The canonical text of ``ids`` (one text), up to the first end."""
        listed = ids.tolist() if isinstance(ids, Tensor) else [int(i) for i in ids]
        return self._model.decode(listed[: listed.index(self.eos_id)] if self.eos_id in listed else listed)

    def __call__(self, texts: str | Iterable[str], context_length: int | None = None, truncate: bool = False) -> Tensor:
        """A string or several -> int32 (number of texts, context_length).

        A longer text raises RuntimeError, or with ``truncate`` loses its last ids.
        """
        length = self.context_length if context_length is None else checked_length(context_length)
        listed = listed_texts(texts)
        rows = [[*self.encode(text), self.eos_id] for text in listed]
        return padded(rows, listed, length, truncate, self.pad_id)
