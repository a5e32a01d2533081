"""Everything that a run needs, built from its configuration."""

from __future__ import annotations

from dataclasses import dataclass

from clipfast.data import PairData, open_pairs
from clipfast.hub.pretrained import preprocess_of
from clipfast.training.checkpointing.train_state import Progress, TrainState
from clipfast.training.processes.random_state import seed_all
from clipfast.training.processes.world import World
from clipfast.training.run.build import Tokenize, build_model, build_tokenizer
from clipfast.training.run.interim_evaluation import check_sources
from clipfast.training.settings.parse import ConfigError, named
from clipfast.training.settings.train_config import TrainConfig
from clipfast.training.step.batch_gradients import Step, build_step
from clipfast.training.step.mixed_precision import Precision
from clipfast.training.step.optimizer import CosineSchedule, build_optimizer, build_schedule
from clipfast.training.step.weight_update import Update, build_average


@dataclass(frozen=True)
class Run:
    """The parts of a run that stay the same while ``TrainState`` changes."""

    config: TrainConfig
    world: World
    data: PairData
    tokenize: Tokenize
    precision: Precision
    schedule: CosineSchedule
    step: Step
    update: Update


def prepare(config: TrainConfig, world: World, tokenizer: Tokenize | None = None) -> tuple[Run, TrainState]:
    """The parts of a run, and its state before the first step."""
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
    optimizer, average = build_optimizer(model, config.optimizer), build_average(model, config.average_decay)
    chunk_size = config.chunk_size if config.chunk_size is not None and config.chunk_size < share else None
    step = build_step(model, precision.scaler, world, chunk_size, config.model.compile)
    update = Update(model, optimizer, precision.scaler, average, config.optimizer.max_gradient_norm)
    schedule = build_schedule(config.optimizer, config.epochs * data.steps)
    state = TrainState(model, optimizer, precision.scaler, average, Progress())
    return Run(config, world, data, tokenize, precision, schedule, step, update), state


def _share(config: TrainConfig, world: World) -> int:
    """Pairs of a batch for each process."""
    share, rest = divmod(config.batch_size, world.size)
    if rest or not share:
        raise ConfigError(
            f"batch_size counts the pairs of all processes and must be a multiple of their number, {world.size}; got "
            f"{config.batch_size}"
        )
    return share


def _make_folder(config: TrainConfig) -> None:
    """Called before anything slow, so that a run that cannot write fails at once."""
    try:
        config.folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise ConfigError(f"output must be a folder that can be made; got {config.output}: {error.strerror}") from error
