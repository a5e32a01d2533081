"""Pairs from a folder with one folder for each class: a picture's captions are templates filled with its class's name."""

from __future__ import annotations

import os
from collections import Counter
from pathlib import Path

import numpy as np

from clipfast.data.data_config import DataConfig
from clipfast.data.records import Record
from clipfast.images.pictures import find_pictures
from clipfast.text.prompts import fill


class ClassFolders:
    """``Records`` of ``source/<class>/**/<picture>``. An underscore in a folder's name is a space in its class's name."""

    def __init__(self, config: DataConfig) -> None:
        config.refuse("class folders have no columns and no paths", "image_key", "caption_key", "root")
        self._root = Path(config.source)
        folders = sorted(path for path in self._root.iterdir() if path.is_dir() and not path.name.startswith("."))
        if not folders:
            raise ValueError(f"{config.source} must have a folder of pictures for each class; got no folders")
        self._names = [folder.name.replace("_", " ") for folder in folders]
        repeated = [name for name, count in Counter(self._names).items() if count > 1]
        if repeated:
            raise ValueError(
                f"{config.source} must have one folder for each class, where _ means a space; got several for "
                f"{', '.join(repeated)}"
            )
        self._captions = [tuple(fill(template, name) for template in config.templates) for name in self._names]
        found = [find_pictures([folder]) for folder in folders]
        # In an array: a list of paths would be copied in every worker, where counting references writes to its pages.
        self._paths = np.array([os.fsencode(path.relative_to(self._root)) for paths in found for path in paths])
        self._classes = np.repeat(np.arange(len(found)), [len(paths) for paths in found])

    def __len__(self) -> int:
        return len(self._paths)

    def where(self, index: int) -> str:
        return os.path.join(self._root, os.fsdecode(self._paths[index]))

    def read(self, index: int) -> Record:
        return Record(self.where(index), self._captions[self._classes[index]])

    def labels(self) -> list[str]:
        return sorted(self._names)

    def groups(self, name: str) -> np.ndarray:
        if name != "class":
            raise ValueError(f"distinct must be 'class' for class folders; got {name!r}")
        return self._classes
