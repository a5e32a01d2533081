"""Evaluation's pictures: each once, in order, with all its captions."""

from __future__ import annotations

from collections.abc import Iterator

from clipfast.data.batches import BatchesOfRecords, PictureBatch, PictureMaker
from clipfast.data.data_config import DataConfig
from clipfast.data.data_sources import is_shards, open_records
from clipfast.data.loader import batch_loader
from clipfast.data.records import Records
from clipfast.data.shard_batches import stream_batches
from clipfast.data.shards import Shards
from clipfast.data.table import JoinedRows, Table
from clipfast.images.preprocess import Preprocess


def described_pictures(config: DataConfig, transform: Preprocess, batch_size: int) -> Iterator[PictureBatch]:
    """The pictures of a table or of tar shards. A picture with several rows in a table comes once, with all their captions."""
    if is_shards(config):
        return stream_batches(Shards(config).in_order, batch_size, 0, PictureMaker(transform), config.workers)
    records = open_records(config)
    if not isinstance(records, Table):
        raise ValueError(
            f"source must be a table or tar shards for retrieval; got {config.source}, class folders, whose captions are shared"
        )
    return pictures_of(JoinedRows(records), transform, batch_size, config.workers)


def pictures_of(records: Records, transform: Preprocess, batch_size: int, workers: int) -> Iterator[PictureBatch]:
    """The pictures of ``records``."""
    keys = [(0, range(len(records))[first : first + batch_size]) for first in range(0, len(records), batch_size)]
    return iter(batch_loader(BatchesOfRecords(records, PictureMaker(transform)), keys, workers))
