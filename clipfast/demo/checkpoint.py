"""The trained model in one file of plain values and tensors, and writing files whole or not at all."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import IO

import torch

from clipfast.demo.captions import Vocabulary
from clipfast.models import CLIP, ClipConfig


@dataclass(frozen=True)
class TrainedDemo:
    """A trained model with what it takes to ask it for names."""

    model: CLIP
    vocabulary: Vocabulary
    names: tuple[str, ...]


def save_demo(path: Path, model: CLIP, vocabulary: Vocabulary, names: Sequence[str]) -> None:
    """Write a checkpoint that ``torch.load(weights_only=True)`` reads."""
    contents = {
        "config": asdict(model.config),
        "state_dict": model.state_dict(),
        "vocabulary": {"words": list(vocabulary.words), "context_length": vocabulary.context_length},
        "names": list(names),
    }
    write_atomically(path, lambda file: torch.save(contents, file))


def load_demo(path: str | Path) -> TrainedDemo:
    """Read what the demo trained, on the CPU and in evaluation mode."""
    contents = torch.load(path, map_location="cpu", weights_only=True)
    model = CLIP(ClipConfig.from_dict(contents["config"]))
    model.load_state_dict(contents["state_dict"])
    saved = contents["vocabulary"]
    vocabulary = Vocabulary(tuple(saved["words"]), saved["context_length"])
    return TrainedDemo(model.eval(), vocabulary, tuple(contents["names"]))


def write_atomically(path: Path, write: Callable[[IO[bytes]], object]) -> None:
    """Write beside ``path`` and rename: a reader, or an interrupted run, never meets half a file."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.NamedTemporaryFile(dir=path.parent, prefix=f".{path.name}.", delete=False) as file:
        try:
            write(file)
            file.flush()
            os.fsync(file.fileno())
        except BaseException:
            os.unlink(file.name)
            raise
    os.chmod(file.name, 0o666 & ~_umask())  # a temporary file is its owner's alone
    os.replace(file.name, path)


def _umask() -> int:
    mask = os.umask(0)
    os.umask(mask)
    return mask
