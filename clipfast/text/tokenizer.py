"""CLIP's tokenizer: byte-pair encoding of lower-cased text, equal to OpenAI's on any string."""

from __future__ import annotations

import html
import os
from collections.abc import Iterable
from functools import cache

import numpy as np
import torch
from torch import Tensor

from clipfast.common.argument_checks import check_whole_number
from clipfast.common.extras import require
from clipfast.text.bpe import END_OF_TEXT, START_OF_TEXT, VOCABULARY_SIZE, Words, read_vocabulary
from clipfast.text.vocabulary import find_vocabulary

CONTEXT_LENGTH = 77
PATTERN = (
    r"<\|startoftext\|>|<\|endoftext\|>|'s|'t|'re|'ve|'m|'ll|'d|"  # special tokens and English endings
    r"[\p{L}]+|[\p{N}]|[^\s\p{L}\p{N}]+"  # words, single digits, runs of anything else but spaces
)


class Tokenizer:
    """Strings to token ids and back, with the vocabulary file ``path``, by default the one that ``find_vocabulary`` finds."""

    vocab_size = VOCABULARY_SIZE

    def __init__(self, path: str | os.PathLike[str] | None = None, context_length: int = CONTEXT_LENGTH) -> None:
        self.context_length = checked_length(context_length)
        self._fix_text = require("ftfy", "the tokenizer").fix_text
        regex = require("regex", "the tokenizer")
        self._split = regex.compile(PATTERN, regex.IGNORECASE).findall
        self.path = find_vocabulary(path)
        merges, self._bytes = read_vocabulary(self.path)
        self._ids = Words(merges)

    def __repr__(self) -> str:
        return f"Tokenizer(path={str(self.path)!r}, context_length={self.context_length})"

    def __reduce__(self) -> tuple[type[Tokenizer], tuple[str, int]]:
        return type(self), (str(self.path), self.context_length)  # a worker process reads the file again

    def encode(self, text: str) -> list[int]:
        """The ids of ``text`` without start and end."""
        ids = self._ids
        return [i for word in self._split(self._clean(checked_text(text))) for i in ids[word]]

    def decode(self, ids: Iterable[int] | Tensor) -> str:
        """The text of ``ids`` (one text, not a batch): lower case, words separated by spaces, special tokens spelled out."""
        listed = ids.tolist() if isinstance(ids, Tensor) else list(ids)
        for i in listed:
            if isinstance(i, list) or not 0 <= i < VOCABULARY_SIZE:
                raise ValueError(f"ids must be those of one text, each in [0, {VOCABULARY_SIZE}); got {i}")
        text = b"".join(self._bytes[i] for i in listed)
        return text.decode("utf-8", errors="replace").replace("</w>", " ")

    def __call__(self, texts: str | Iterable[str], context_length: int | None = None, truncate: bool = False) -> Tensor:
        """As ``tokenize``, but with the tokenizer's own ``context_length`` by default."""
        length = self.context_length if context_length is None else checked_length(context_length)
        listed = listed_texts(texts)
        rows = [[START_OF_TEXT, *self.encode(text), END_OF_TEXT] for text in listed]
        return padded(rows, listed, length, truncate, pad=0)

    def _clean(self, text: str) -> str:
        # ftfy and html leave printable ASCII without character references as it is. White space need not be collapsed, as no
        # token contains any.
        if not (text.isascii() and text.isprintable() and "&" not in text):
            text = html.unescape(html.unescape(self._fix_text(text))).strip()
        return text.lower()


def padded(rows: list[list[int]], texts: list[str], length: int, truncate: bool, pad: int) -> Tensor:
    """One int32 row (length,) per text. A text that is too long raises RuntimeError, or with ``truncate`` loses ids before its
    last one, the end."""
    result = np.full((len(rows), length), pad, dtype=np.int32)
    for line, ids, text in zip(result, rows, texts, strict=True):
        if len(ids) > length:
            if not truncate:
                raise RuntimeError(f"Input {text} is too long for context length {length}")
            ids[length - 1 :] = ids[-1:]
        line[: len(ids)] = ids
    return torch.from_numpy(result)


def listed_texts(texts: str | Iterable[str]) -> list[str]:
    """A string or several, as a list."""
    if isinstance(texts, str):
        return [texts]
    if isinstance(texts, (bytes, Tensor)) or not isinstance(texts, Iterable):
        raise TypeError(f"texts must be a string or several strings; got {type(texts).__name__}")
    return list(texts)


def checked_text(value: str) -> str:
    if not isinstance(value, str):
        raise TypeError(f"a text must be a string; got {type(value).__name__}")
    return value


def checked_length(value: int) -> int:
    check_whole_number("context_length", value, 1)
    return value


@cache
def default_tokenizer() -> Tokenizer:
    """The tokenizer of ``tokenize``, made at the first call."""
    return Tokenizer()


def tokenize(texts: str | Iterable[str], context_length: int = CONTEXT_LENGTH, truncate: bool = False) -> Tensor:
    """A string or several -> int32 (number of texts, context_length), as OpenAI's ``clip.tokenize``. Needs ftfy and regex.

    Each row is the start (49406), the text's ids, the end (49407), and zeros. A text of more than ``context_length - 2`` ids
    raises RuntimeError, or with ``truncate`` loses its last ids.
    """
    return default_tokenizer()(texts, context_length, truncate)
