"""Where a run starts: at its beginning, or at its newest checkpoint."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import asdict
from typing import Any

from clipfast.training.checkpoints import Checkpoints
from clipfast.training.config import TrainConfig
from clipfast.training.processes import World
from clipfast.training.sources import ConfigError
from clipfast.training.state import TrainState

# What may change between two parts of a run: it does not decide what is learnt, beyond the rounding of sums.
# REMEDIES do, and are what a diagnosis tells to change: the run goes on from its checkpoint with the new value.
FREE = ("output", "device", "chunk_size", "log", "checkpoints", "evaluation", "data.workers", "data.root", "model.compile",
        "model.gradient_checkpointing", "model.weights")  # fmt: skip
REMEDIES = ("precision", "optimizer.learning_rate", "optimizer.final_learning_rate", "optimizer.max_gradient_norm")


def restore(state: TrainState, checkpoints: Checkpoints, config: TrainConfig, resume: bool, world: World) -> list[Any]:
    """Fill ``state`` from the newest whole checkpoint, and return the random states in it; none without a checkpoint.

    Every process must call it. ConfigError for a folder with checkpoints that nobody asked to resume, and for a
    configuration that differs.
    """
    if not resume:
        if checkpoints.paths():
            raise ConfigError(
                f"{config.output} has checkpoints of a run already; continue it with --resume, or choose another output"
            )
        return []
    if world.first:
        checkpoints.remove_unfinished()
    found = checkpoints.newest()
    if found is None:
        return []
    path, contents = found
    if changed := _changed(contents["run"], plain(config)):
        raise ConfigError(
            f"{path} belongs to another configuration: {'; '.join(changed)}. Resume with the old one, or start a new run "
            f"(another output), from these weights if you like (model.weights = {str(path)!r})"
        )
    state.restore(contents)
    return contents["random"]


def plain(config: TrainConfig) -> dict[str, Any]:
    """The configuration in plain values, for a checkpoint and the log."""
    return asdict(config)


def _changed(old: Mapping[str, Any], new: Mapping[str, Any]) -> list[str]:
    before, now = dict(_flat(old)), dict(_flat(new))
    keys = [key for key in {**before, **now} if not any(f"{key}.".startswith(f"{free}.") for free in (*FREE, *REMEDIES))]
    return [f"{key} was {before.get(key)!r} and is {now.get(key)!r}" for key in keys if before.get(key) != now.get(key)]


def _flat(values: Mapping[str, Any], where: str = "") -> Iterator[tuple[str, Any]]:
    for key, value in values.items():
        if isinstance(value, Mapping):
            yield from _flat(value, f"{where}{key}.")
        else:
            yield where + key, list(value) if isinstance(value, tuple) else value
