"""Pairs of pictures and captions for training and evaluation (docs/guides/data.md)."""

from clipfast.data.batches import PairBatch
from clipfast.data.data_config import DataConfig
from clipfast.data.records import NothingReadableError, Skipped
from clipfast.data.training_pairs import PairData, open_pairs

__all__ = ["DataConfig", "NothingReadableError", "PairBatch", "PairData", "Skipped", "open_pairs"]
