"""A sentence encoder with random weights, and texts of its vocabulary: nothing is downloaded."""

from __future__ import annotations

import random
from pathlib import Path
from typing import Any

import torch

WORDS = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", *(f"w{i}" for i in range(40))]


def write_encoder(folder: Path, dropout: float = 0.0) -> None:
    """The folder of a transformer of one layer and its tokenizer. For one process: Transformers writes only in the first."""
    import transformers

    torch.manual_seed(0)
    config = transformers.BertConfig(
        vocab_size=len(WORDS), hidden_size=16, num_hidden_layers=1, num_attention_heads=2, intermediate_size=32,
        max_position_embeddings=16, hidden_dropout_prob=dropout, attention_probs_dropout_prob=dropout,
        initializer_range=0.3,
    )  # fmt: skip
    transformers.BertModel(config).save_pretrained(folder)
    transformers.BertTokenizer(vocab={word: i for i, word in enumerate(WORDS)}).save_pretrained(folder)


def read_encoder(folder: Path) -> Any:
    """A SentenceTransformer of that transformer and mean pooling."""
    import sentence_transformers
    from sentence_transformers.sentence_transformer import modules

    layers = [modules.Transformer(str(folder)), modules.Pooling(16)]
    return sentence_transformers.SentenceTransformer(modules=layers, device="cpu")


def encoder(folder: Path, dropout: float = 0.0) -> Any:
    """The same weights each time."""
    write_encoder(folder, dropout)
    return read_encoder(folder)


def columns(rows: int, number: int) -> dict[str, list[str]]:
    """Anchors, positives and hard negatives, of one to eight words."""
    draw = random.Random(0)
    names = ["anchor", "positive", *(f"negative_{i}" for i in range(1, number - 1))]
    return {name: [" ".join(draw.choices(WORDS[5:], k=draw.randint(1, 8))) for _ in range(rows)] for name in names}
