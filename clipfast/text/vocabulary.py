"""OpenAI's vocabulary file: where it is found, and the check that it is the right one."""

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
    """The file at ``path``, or else in the cache, in an installed package that ships it, or downloaded; its sha256 holds.

    Raises FileNotFoundError or ValueError for a ``path`` that is missing or another file, and RuntimeError where the
    download fails.
    """
    if path is not None:
        return _checked(Path(path))
    for candidate in _candidates():
        # The name `clip` on the package index is another project: only the content decides.
        if candidate.is_file() and sha256_of(candidate) == SHA256:
            return candidate
    return download(URL, SHA256, cache_folder())


def _checked(path: Path) -> Path:
    if not path.is_file():
        raise FileNotFoundError(f"there is no vocabulary file at {path}; without a path clipfast looks for one itself")
    if (found := sha256_of(path)) != SHA256:
        raise ValueError(f"{path} is not CLIP's vocabulary: its sha256 is {found}, expected {SHA256} ({URL})")
    return path


def _candidates() -> Iterator[Path]:
    yield cache_folder() / NAME
    for package in PACKAGES:
        with suppress(ValueError):  # a module that somebody put into sys.modules by hand
            spec = find_spec(package)  # of a top-level name: nothing is imported
            for folder in (spec and spec.submodule_search_locations) or ():
                yield Path(folder) / NAME
