"""OpenAI's vocabulary file: finding or downloading it, and checking that it is the right one."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import suppress
from importlib.util import find_spec
from pathlib import Path

from clipfast.common.download import cache_folder, download, sha256_of

NAME = "bpe_simple_vocab_16e6.txt.gz"
SHA256 = "924691ac288e54409236115652ad4aa250f48203de50a9e4722a6ecd48d6804a"
URL = f"https://github.com/openai/CLIP/raw/main/clip/{NAME}"
PACKAGES = ("clip", "open_clip")  # as imported: openai-clip and clip-anytorch, open_clip_torch


def find_vocabulary(path: str | os.PathLike[str] | None = None) -> Path:
    """The file at ``path``; by default the one in the cache, or in an installed package that ships it, or downloaded.

    Its sha256 is always checked. Raises FileNotFoundError if there is no file at ``path``, ValueError if it is another file,
    and RuntimeError if the download fails.
    """
    if path is not None:
        return _checked(Path(path))
    for candidate in _candidates():
        # An installed `clip` may be an unrelated project of that name: only the content decides.
        if candidate.is_file() and sha256_of(candidate) == SHA256:
            return candidate
    return download(URL, SHA256, cache_folder())


def _checked(path: Path) -> Path:
    if not path.is_file():
        raise FileNotFoundError(f"there is no vocabulary file at {path}; without a path clipfast looks for one itself")
    if (found := sha256_of(path)) != SHA256:
        raise ValueError(f"path must be CLIP's vocabulary, {URL} with sha256 {SHA256}; got {path} with sha256 {found}")
    return path


def _candidates() -> Iterator[Path]:
    yield cache_folder() / NAME
    for package in PACKAGES:
        with suppress(ValueError):  # a module that somebody put into sys.modules by hand
            spec = find_spec(package)  # of a top-level name: nothing is imported
            for folder in (spec and spec.submodule_search_locations) or ():
                yield Path(folder) / NAME
