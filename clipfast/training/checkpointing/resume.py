"""Where a run starts: at its beginning, or at its newest checkpoint if that has the same configuration."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import asdict
from typing import Any

from clipfast.training.checkpointing.checkpoint_folder import Checkpoints
from clipfast.training.checkpointing.train_state import TrainState
from clipfast.training.processes.world import World
from clipfast.training.settings.parse import ConfigError
from clipfast.training.settings.train_config import TrainConfig

# Keys that may differ when a run goes on. FREE ones do not decide what is learnt, beyond the rounding of sums. REMEDIES do;
# they are what a diagnosis advises to change, and the run goes on from its checkpoint with the new values.
FREE = ("output", "device", "chunk_size", "log", "checkpoints", "evaluation", "data.workers", "data.root", "model.compile",
        "model.gradient_checkpointing", "model.weights")  # fmt: skip
REMEDIES = ("precision", "optimizer.learning_rate", "optimizer.final_learning_rate", "optimizer.max_gradient_norm")


def restore(state: TrainState, checkpoints: Checkpoints, config: TrainConfig, resume: bool, world: World) -> list[Any]:
    """Restore ``state`` from the newest whole checkpoint, and return the processes' random states in it.

    Without a checkpoint ``state`` stays as it is and there are no random states. Every process must call this. ConfigError
    for a folder with checkpoints if ``resume`` is false, and for a configuration that differs from the checkpoint's.
    """
    if not resume:
        if checkpoints.paths():
            raise ConfigError(
                f"output must be a folder without checkpoints; got {config.output}, which has checkpoints of a run already; "
                "continue it with --resume, or choose another output"
            )
        return []
    if world.first:
        checkpoints.remove_unfinished()
    newest = checkpoints.newest()
    if newest is None:
        return []
    path, contents = newest
    if changed := _changed(contents["run"], asdict(config)):
        raise ConfigError(
            f"the configuration must be that of {path}; got another configuration: {'; '.join(changed)}. Resume with the "
            f"old one, or start a new run (another output), from these weights if you like (model.weights = {str(path)!r})"
        )
    state.restore(contents)
    return contents["random"]


def _changed(old: Mapping[str, Any], new: Mapping[str, Any]) -> list[str]:
    """What differs in keys that must not, one sentence for each."""
    before, now = dict(_flat(old)), dict(_flat(new))
    keys = [key for key in {**before, **now} if not any(f"{key}.".startswith(f"{free}.") for free in (*FREE, *REMEDIES))]
    return [f"{key} was {before.get(key)!r} and is {now.get(key)!r}" for key in keys if before.get(key) != now.get(key)]


def _flat(values: Mapping[str, Any], where: str = "") -> Iterator[tuple[str, Any]]:
    """Nested tables as ``table.key`` and value."""
    for key, value in values.items():
        if isinstance(value, Mapping):
            yield from _flat(value, f"{where}{key}.")
        else:
            yield where + key, list(value) if isinstance(value, tuple) else value
