"""A folder of checkpoints, each written whole or not at all, of which the newest stay."""

from __future__ import annotations

import re
import warnings
from pathlib import Path
from typing import Any

import torch

from clipfast.files import write_atomically

NAME = re.compile(r"step-(\d{8,})\.pt")


def _step(path: Path) -> int:
    return int(path.stem.partition("-")[2])


class Checkpoints:
    """``folder/step-00001000.pt`` and so on. Only one process of a run writes."""

    def __init__(self, folder: Path, keep: int) -> None:
        self.folder, self.keep = folder, keep

    def paths(self) -> list[Path]:
        """The newest first."""
        found = [path for path in self.folder.glob("step-*.pt") if NAME.fullmatch(path.name)]
        return sorted(found, key=_step, reverse=True)

    def path(self, step: int) -> Path:
        return self.folder / f"step-{step:08d}.pt"

    def save(self, step: int, contents: dict[str, Any]) -> Path:
        """Write tensors and plain values; then let go of all but the newest ``keep`` up to this one.

        A later one is damaged, or a resumed run would not be here: it must not push out those that are whole.
        """
        write_atomically(self.path(step), lambda file: torch.save(contents, file))
        for path in [path for path in self.paths() if _step(path) <= step][self.keep :]:
            path.unlink()
        return self.path(step)

    def newest(self) -> tuple[Path, dict[str, Any]] | None:
        """The newest one that can be read, on the CPU; a warning names each that cannot."""
        for path in self.paths():
            try:
                return path, torch.load(path, map_location="cpu", weights_only=True)
            except Exception as error:  # a damaged archive fails in any way
                reason = str(error).splitlines()[0] if str(error) else repr(error)
                warnings.warn(f"the checkpoint {path} cannot be read and is passed over: {reason}", stacklevel=2)
        return None

    def remove_unfinished(self) -> None:
        """What a process that was killed while writing left behind."""
        for path in self.folder.glob(".step-*.pt.*"):
            path.unlink()
