"""``python -m clipfast train``: read the configuration, train, say how it ended."""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence

import torch

from clipfast.training.run.engine import Summary, checkpoints_of, train
from clipfast.training.settings.toml_and_flags import configured
from clipfast.training.settings.train_config import TrainConfig
from clipfast.training.step.diagnosis import NotFiniteError

SHOWN = 5  # pairs that could not be read


def run(arguments: Sequence[str], resume: bool) -> tuple[list[str], int]:
    """The lines to print at the end, and the exit status: 0, or like a shell's 128 plus the number of a signal that came."""
    config = configured(arguments)
    try:
        summary = train(config, resume=resume)
    except torch.OutOfMemoryError as error:
        raise MemoryError(
            f"{error} Set chunk_size (gradient caching), model.gradient_checkpointing, or a smaller batch"
        ) from error
    except NotFiniteError as error:
        newest = next(iter(checkpoints_of(config).paths()), None)
        raise NotFiniteError(f"{error}" + (f". --resume goes on from {newest}" if newest else "")) from error
    status = 0 if summary.interrupted is None else 128 + summary.interrupted
    return list(report(summary, config)) if first_process() else [], status


def report(summary: Summary, config: TrainConfig) -> Iterator[str]:
    """How the run ended, line by line."""
    progress = summary.progress
    if summary.interrupted is not None and summary.checkpoint is None:
        yield f"{summary.interrupted.name} came before the first step: there is nothing to go on from"
    elif summary.interrupted is not None:
        yield f"{summary.interrupted.name} came: stopped after step {progress.step}; --resume goes on from {summary.checkpoint}"
    else:
        yield f"{progress.step} steps, {summary.seconds:.0f} s, last loss {progress.loss:.4f}"
    if progress.metrics:
        yield ", ".join(f"{name} {value:.4g}" for name, value in progress.metrics.items())
    if progress.overflows:
        yield f"{progress.overflows} steps changed nothing, since their float16 gradients overflowed"
    if progress.skipped:
        yield f"{progress.skipped} pairs could not be read and were left out; {config.folder / 'log.jsonl'} names them:"
        yield from (f"  {where}: {why}" for where, why in list(progress.named.items())[:SHOWN])
    if summary.result is not None:
        yield f"model: {summary.result}"


def first_process() -> bool:
    """Whether this is the process of a run that prints."""
    return os.environ.get("RANK", "0") == "0"
