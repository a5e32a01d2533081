"""The parts of a run, and one step of it."""

from __future__ import annotations

import math
from dataclasses import dataclass

from clipfast.data import PairBatch, PairData, open_pairs
from clipfast.hub.pretrained import preprocess_of
from clipfast.training.build import Tokenize, build_model, build_tokenizer
from clipfast.training.config import TrainConfig
from clipfast.training.diagnosis import NotFiniteError, diagnose
from clipfast.training.evaluate import check_sources
from clipfast.training.optimizer import build_optimizer
from clipfast.training.precision import Precision
from clipfast.training.processes import World
from clipfast.training.random_state import seed_all
from clipfast.training.schedule import CosineSchedule, default_warmup
from clipfast.training.sources import ConfigError, named
from clipfast.training.state import Progress, TrainState
from clipfast.training.step import Step, build_step
from clipfast.training.update import Outcome, Update, averaged

MAX_OVERFLOWS = 20  # in a row: the scaler has then divided its scale by a million


@dataclass(frozen=True)
class Run:
    """What stays the same while ``TrainState`` changes."""

    config: TrainConfig
    world: World
    data: PairData
    tokenize: Tokenize
    precision: Precision
    schedule: CosineSchedule
    step: Step
    update: Update


def prepare(config: TrainConfig, world: World, tokenizer: Tokenize | None = None) -> tuple[Run, TrainState]:
    """Everything that a run needs, at its beginning."""
    share = _share(config, world)
    _make_folder(config)
    precision = Precision(config.precision, world.device)
    seed_all(config.seed)  # the same weights in every process
    model = build_model(config.model, world.device, precision.dtype)
    tokenize = tokenizer or build_tokenizer(config.model)
    check_sources(config.evaluation)
    with named("data"):
        data = open_pairs(
            config.data, preprocess_of(model.config), tokenize,
            batch_size=share, seed=config.seed, rank=world.rank, world_size=world.size,
        )  # fmt: skip
    optimizer, average = build_optimizer(model, config.optimizer), averaged(model, config.average_decay)
    chunk_size = config.chunk_size if config.chunk_size is not None and config.chunk_size < share else None
    step = build_step(model, precision.scaler, world, chunk_size, config.model.compile)
    update = Update(model, optimizer, precision.scaler, average, config.optimizer.max_gradient_norm)
    schedule = _schedule(config, config.epochs * data.steps)
    state = TrainState(model, optimizer, precision.scaler, average, Progress())
    return Run(config, world, data, tokenize, precision, schedule, step, update), state


def _share(config: TrainConfig, world: World) -> int:
    share, rest = divmod(config.batch_size, world.size)
    if rest or not share:
        raise ConfigError(
            f"batch_size counts the pairs of all processes, but {world.size} of them cannot share {config.batch_size} evenly"
        )
    return share


def _make_folder(config: TrainConfig) -> None:
    """Before anything else is done: a run that cannot write is no run."""
    try:
        config.folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise ConfigError(f"output: there can be no folder {config.output}: {error.strerror}") from error


def _schedule(config: TrainConfig, total_steps: int) -> CosineSchedule:
    optimizer = config.optimizer
    warmup = default_warmup(total_steps) if optimizer.warmup_steps is None else optimizer.warmup_steps
    return CosineSchedule(optimizer.learning_rate, optimizer.final_learning_rate, warmup, total_steps)


def train_step(run: Run, state: TrainState, batch: PairBatch) -> Outcome:
    """One batch through the towers, and new weights. Raises NotFiniteError where there is nothing to learn from."""
    rate = run.schedule.set(state.optimizer, state.progress.step)
    images, tokens = (part.to(run.world.device, non_blocking=True) for part in (batch.images, batch.tokens))
    state.optimizer.zero_grad()
    with run.precision.autocast():
        result = run.step((images, tokens))
    outcome = run.update(result.loss)
    state.progress.advance(run.data.steps, outcome.loss, outcome.applied)
    overflow = run.precision.scaler.is_enabled() and math.isfinite(outcome.loss)
    if not outcome.applied and not (overflow and state.progress.overflows_in_a_row < MAX_OVERFLOWS):
        cause = diagnose(state.model, images, result.features[0], run.world)
        raise NotFiniteError(_failure(outcome, state.progress, rate, cause))
    return outcome


def _failure(outcome: Outcome, progress: Progress, rate: float, cause: str) -> str:
    what = f"the loss is {outcome.loss}"
    if math.isfinite(outcome.loss):
        repeated = f" in {progress.overflows_in_a_row} steps in a row" if progress.overflows_in_a_row > 1 else ""
        what = f"the norm of the gradient is {outcome.gradient_norm}{repeated} (the loss is {outcome.loss:.4g})"
    return f"stopped at step {progress.step}, learning rate {rate:.3g}: {what}; {cause}"
