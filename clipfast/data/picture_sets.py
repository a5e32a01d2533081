"""Pictures for evaluation: every one once, in order, with all its captions."""

from __future__ import annotations

from collections.abc import Iterator

from clipfast.data.batches import BatchesOfRecords, PictureBatch, PictureMaker
from clipfast.data.data_config import DataConfig
from clipfast.data.loader import batch_loader
from clipfast.data.pairs import is_shards, open_records
from clipfast.data.records import Records
from clipfast.data.shard_batches import stream_batches
from clipfast.data.shards import Shards
from clipfast.data.table import JoinedRows, Table
from clipfast.images.preprocess import Preprocess


def described_pictures(config: DataConfig, transform: Preprocess, batch_size: int) -> Iterator[PictureBatch]:
    """The pictures of a table or of tar shards; one with several rows in a table comes once, with the captions of all."""
    if is_shards(config):
        return stream_batches(Shards(config).in_order, batch_size, 0, PictureMaker(transform), config.workers)
    records = open_records(config)
    if not isinstance(records, Table):
        raise ValueError(f"{config.source} has class folders, whose pictures share their captions; retrieval needs captions")
    return pictures_of(JoinedRows(records), transform, batch_size, config.workers)


def pictures_of(records: Records, transform: Preprocess, batch_size: int, workers: int) -> Iterator[PictureBatch]:
    keys = [(0, range(len(records))[first : first + batch_size]) for first in range(0, len(records), batch_size)]
    return iter(batch_loader(BatchesOfRecords(records, PictureMaker(transform)), keys, workers))
