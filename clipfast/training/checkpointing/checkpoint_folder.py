"""A folder of checkpoints, each written whole or not at all; only the newest are kept."""

from __future__ import annotations

import re
import warnings
from pathlib import Path
from typing import Any

import torch

from clipfast.common.files import write_atomically

NAME = re.compile(r"step-(\d{8,})\.pt")


def _step(path: Path) -> int:
    return int(path.stem.partition("-")[2])


class Checkpoints:
    """``folder/step-00001000.pt`` and so on. Only one process of a run writes."""

    def __init__(self, folder: Path, keep: int) -> None:
        self.folder, self.keep = folder, keep

    def paths(self) -> list[Path]:
        """The newest first."""
        paths = [path for path in self.folder.glob("step-*.pt") if NAME.fullmatch(path.name)]
        return sorted(paths, key=_step, reverse=True)

    def path(self, step: int) -> Path:
        return self.folder / f"step-{step:08d}.pt"

    def save(self, step: int, contents: dict[str, Any]) -> Path:
        """Write tensors and plain values; then remove all but the newest ``keep`` checkpoints up to this step.

        Checkpoints of later steps do not count: they are damaged, or the run would have resumed from them.
        """
        write_atomically(self.path(step), lambda file: torch.save(contents, file))
        for path in [path for path in self.paths() if _step(path) <= step][self.keep :]:
            path.unlink()
        return self.path(step)

    def newest(self) -> tuple[Path, dict[str, Any]] | None:
        """The newest checkpoint that can be read, with its tensors on the CPU, or None in an empty folder.

        A warning names each that cannot be read; ValueError if none can.
        """
        for path in self.paths():
            try:
                return path, torch.load(path, map_location="cpu", weights_only=True)
            except Exception as error:  # a damaged archive may raise anything
                kind = type(error).__name__
                warnings.warn(f"the checkpoint {path} is damaged and is passed over ({kind})", stacklevel=2)
        if self.paths():
            raise ValueError(f"{self.folder} must have a readable checkpoint; got damaged ones only; remove them to begin anew")
        return None

    def remove_unfinished(self) -> None:
        """Remove the unfinished files of a process that was killed while it wrote."""
        for path in self.folder.glob(".step-*.pt.*"):
            path.unlink()
