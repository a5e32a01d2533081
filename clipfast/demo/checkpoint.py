"""The trained model in one file of plain values and tensors."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import torch

from clipfast.demo.captions import Vocabulary
from clipfast.files import write_atomically
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
