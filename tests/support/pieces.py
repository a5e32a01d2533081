"""A SentencePiece model small enough to train in a test."""

from __future__ import annotations

from pathlib import Path

import pytest

CORPUS = "a photo of a cat\na drawing of the small dog\nthe quick brown fox jumps over a lazy dog\ntwo cats and one bird\n" * 40
T5_IDS = {"pad_id": 0, "eos_id": 1, "unk_id": 2, "bos_id": -1}


def train(folder: Path, **options: int) -> Path:
    """The path of a trained model; ``options`` are those of SentencePiece's trainer, such as T5_IDS."""
    sentencepiece = pytest.importorskip("sentencepiece")
    (folder / "corpus.txt").write_text(CORPUS)
    prefix = folder / "tiny"
    sentencepiece.SentencePieceTrainer.train(
        input=str(folder / "corpus.txt"), model_prefix=str(prefix), vocab_size=60, hard_vocab_limit=False,
        minloglevel=2, num_threads=1, **options,
    )  # fmt: skip
    return prefix.with_suffix(".model")
