"""WebDataset tar shards, read from beginning to end in one stream for each process of the training."""

from __future__ import annotations

import os
import random
import tarfile
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import count, islice
from logging import getLogger
from pathlib import Path
from types import ModuleType
from typing import Any, NamedTuple

import numpy as np

from clipfast.common.extras import require
from clipfast.data.data_config import DataConfig
from clipfast.data.order import seed_of
from clipfast.data.records import Skipped, checked_captions
from clipfast.images.pictures import UnreadableError

IMAGES, CAPTION = "jpg;jpeg;png;webp", "txt"


class Sample(NamedTuple):
    """The bytes of a picture's file, its captions, and where they are: shard/key."""

    where: str
    picture: bytes
    captions: tuple[str, ...]


class Shards:
    """The samples of the tar files that ``config.source`` names, whose braces are expanded."""

    def __init__(self, config: DataConfig) -> None:
        config.refuse("pictures are inside the shards", "root")
        self.urls: list[str] = _webdataset("shardlists").expand_urls(config.source)
        self._images, self._caption = (config.image_key or IMAGES).split(";"), config.caption_key or CAPTION
        for path in map(Path, filter(_is_local, self.urls)):
            _check_tar(path)

    def in_order(self) -> Iterator[Sample | Skipped]:
        return (sample for url in self.urls for sample in self.samples(url))

    def samples(self, url: str) -> Iterator[Sample | Skipped]:
        """The samples of one shard. A damaged shard ends where its damage begins, which counts as one pair left out."""
        try:
            for found in _webdataset("tariterators").tarfile_samples(iter([{"url": url}])):
                yield self._sample(f"{url}/{found['__key__']}", found)
            if _is_local(url) and not _has_end(Path(url)):  # the tar format itself allows a file to end between two members
                raise EOFError("it has no end mark, so it has been cut off")
        except Exception as error:  # from tarfile, a decompressor or a network; the other shards may be intact
            reason = error.args[0] if error.args else repr(error)
            yield Skipped(url, f"the rest of the shard cannot be read: {reason}")

    def _sample(self, where: str, members: dict[str, Any]) -> Sample | Skipped:
        image = next((members[ending] for ending in self._images if ending in members), None)
        if image is None or self._caption not in members:
            missing = f"picture (.{', .'.join(self._images)})" if image is None else f"caption (.{self._caption})"
            named = ", ".join(f".{name}" for name in members if not name.startswith("__"))
            return Skipped(where, f"it has no {missing}; its members are {named}")
        try:
            text = members[self._caption].decode("utf-8", "surrogateescape").strip()
            return Sample(where, image, checked_captions(text, f"in .{self._caption}"))
        except UnreadableError as error:
            return Skipped(where, str(error))


@dataclass(frozen=True)
class Stream:
    """One process's samples: its share of the shards, reordered each epoch, shuffled in a buffer of ``buffer`` samples."""

    shards: Shards
    buffer: int
    seed: int
    rank: int
    world_size: int

    def epoch(self, epoch: int, wanted: int) -> Iterator[Sample | Skipped]:
        """``wanted`` samples. A process whose shards hold fewer reads them again, and logs a warning."""
        return islice(self._endless(epoch), wanted)

    def _endless(self, epoch: int) -> Iterator[Sample | Skipped]:
        order = np.random.default_rng((self.seed, epoch)).permutation(len(self.shards.urls))
        mine = [self.shards.urls[i] for i in order[self.rank :: self.world_size]]
        for turn in count():
            chance = random.Random(seed_of(self.seed, epoch, self.rank, turn))
            samples = (sample for url in chance.sample(mine, len(mine)) for sample in self.shards.samples(url))
            shuffle = _webdataset("filters").shuffle(max(1, self.buffer), max(1, self.buffer), rng=chance)
            read = 0
            for sample in shuffle(samples):
                read += 1
                yield sample
            if not read:
                yield Skipped(", ".join(mine), "there is no sample in these shards")
            getLogger("clipfast").warning(
                "process %d has read all %d pairs of its %d shards; it begins them again, as an epoch has more",
                *(self.rank, read, len(mine)),
            )


def _check_tar(path: Path) -> None:
    if not path.is_file():
        raise FileNotFoundError(f"there is no shard {path}")
    if not tarfile.is_tarfile(path):
        raise ValueError(f"a shard must be a tar file; got {path}")


def _is_local(url: str) -> bool:
    return "://" not in url and not url.startswith("pipe:")


def _has_end(path: Path) -> bool:
    """Whether the file ends in zeros, as tar requires. Reading a compressed file that is cut off fails by itself."""
    if path.suffix != ".tar":
        return True
    with path.open("rb") as file:
        file.seek(max(-2 * tarfile.BLOCKSIZE, -path.stat().st_size), os.SEEK_END)
        return not any(file.read())


def _webdataset(module: str) -> ModuleType:
    return require(f"webdataset.{module}", "reading tar shards", extra="data")
