"""Captions of icons, and the word-level vocabulary that turns them into token ids."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

import torch
from torch import Tensor

PAD, START = 0, 1
FIRST_WORD = 2


def caption(name: str, style: str | None = None) -> str:
    """``a sharp icon of home``, or ``an icon of home`` without a style."""
    if style is None:
        return f"an icon of {name}"
    return f"{'an' if style[0] in 'aeiou' else 'a'} {style} icon of {name}"


@dataclass(frozen=True)
class Vocabulary:
    """Ids: 0 padding, 1 start, the words, and the end of text, the largest, where the model reads the text's feature."""

    words: tuple[str, ...]
    context_length: int

    @classmethod
    def of(cls, captions: Iterable[str]) -> Vocabulary:
        """Every word of ``captions``, and room for the longest of them."""
        texts = [text.split() for text in captions]
        return cls(tuple(sorted({word for text in texts for word in text})), max(map(len, texts)) + 2)

    @property
    def end(self) -> int:
        return FIRST_WORD + len(self.words)

    def __len__(self) -> int:
        return self.end + 1

    def encode(self, captions: Iterable[str]) -> Tensor:
        """Captions to ids (captions, context_length) int64."""
        ids = {word: FIRST_WORD + i for i, word in enumerate(self.words)}
        return torch.tensor([self._row(text, ids) for text in captions])

    def _row(self, text: str, ids: dict[str, int]) -> list[int]:
        words = text.split()
        unknown = [word for word in words if word not in ids]
        if unknown:
            raise ValueError(f"{text!r} has words that the training captions did not: {', '.join(unknown)}")
        row = [START, *(ids[word] for word in words), self.end]
        if len(row) > self.context_length:
            raise ValueError(f"{text!r} is too long: {len(row)} tokens with start and end, of at most {self.context_length}")
        return row + [PAD] * (self.context_length - len(row))
