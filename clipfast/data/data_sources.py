"""Which kind of source a configuration names, and the records of a table or of class folders."""

from __future__ import annotations

from pathlib import Path

from clipfast.data.class_folders import ClassFolders
from clipfast.data.data_config import DataConfig
from clipfast.data.records import Grouped
from clipfast.data.table import ROWS, Table


def is_shards(config: DataConfig) -> bool:
    """Whether the source is tar shards, which are read as a stream, and not a table or a folder."""
    path = Path(config.source)
    return ".tar" in config.source and path.suffix.lower() not in ROWS and not path.is_dir()


def open_records(config: DataConfig) -> Grouped:
    """The records of a table or of class folders."""
    path = Path(config.source)
    if not path.exists():
        raise FileNotFoundError(f"there is no file or folder {config.source}")
    if path.suffix.lower() in ROWS:
        return Table(config)
    if path.is_dir():
        return ClassFolders(config)
    raise ValueError(
        f"source must be a table ({', '.join(ROWS)}), a folder of class folders, or tar shards (.tar); got {config.source}"
    )
