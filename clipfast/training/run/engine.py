"""A training run from its configuration to the trained model."""

from __future__ import annotations

import math
import time
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from signal import Signals

import torch

from clipfast.common.files import write_atomically
from clipfast.data import PairBatch, PairData
from clipfast.models import CLIP, export_state_dict
from clipfast.training.checkpointing.checkpoint_folder import Checkpoints
from clipfast.training.checkpointing.resume import restore
from clipfast.training.checkpointing.train_state import Progress, TrainState
from clipfast.training.processes.interruption import Interruption, noting_signals, until_interrupted
from clipfast.training.processes.random_state import continue_random
from clipfast.training.processes.world import join_world
from clipfast.training.records.run_record import RunRecord, recording
from clipfast.training.run.build import Tokenize
from clipfast.training.run.interim_evaluation import evaluate, evaluation_due
from clipfast.training.run.preparation import Run, prepare
from clipfast.training.settings.train_config import TrainConfig
from clipfast.training.step.diagnosis import NotFiniteError, diagnose
from clipfast.training.step.weight_update import Outcome

MAX_OVERFLOWS = 20  # in a row: the scaler has then divided its scale by a million


@dataclass(frozen=True)
class Summary:
    """How a run ended: where, after how many seconds, with which files.

    ``checkpoint`` is the newest. ``result`` is the trained model, or None if the signal ``interrupted`` ended the run before.
    """

    progress: Progress
    seconds: float
    checkpoint: Path | None
    result: Path | None
    interrupted: Signals | None = None


def train(config: TrainConfig, *, resume: bool = False, tokenizer: Tokenize | None = None) -> Summary:
    """Train as ``config`` says, in this process or in all of torchrun's.

    Writes ``log.jsonl``, ``checkpoints/`` and at the end ``model.pt``, which ``clipfast.load`` reads, into ``config.output``.
    ``resume`` goes on at the newest checkpoint, if there is one, as if the run had never stopped. ``tokenizer`` replaces
    the model's own. The global random generators of torch, NumPy and Python are seeded.

    SIGTERM and SIGINT end the run after the current step, with a checkpoint. Raises ConfigError for a configuration that
    cannot be used, NotFiniteError with a diagnosis for a NaN or infinite loss, ValueError and OSError for data that cannot
    be read.
    """
    began = time.perf_counter()
    with join_world(config.device) as world, noting_signals() as interruption:
        run, state = prepare(config, world, tokenizer)
        checkpoints = checkpoints_of(config)
        random_states = restore(state, checkpoints, config, resume, world)
        with recording(state, world, config, run.data.steps) as record:
            event = "resumed" if random_states else "started"
            record.write(event, config=asdict(config), torch=torch.__version__, processes=world.size)
            continue_random(random_states, world.rank, config.seed)  # imports on the way here may have used some
            _steps(run, state, checkpoints, record, interruption)
            complete = state.progress.epoch == config.epochs
            result = _write_result(config.folder / "model.pt", state.result) if complete and world.first else None
            record.end("finished" if complete else "interrupted")
            signals = [number for number in world.gather(interruption.signal) if number is not None]
    newest = next(iter(checkpoints.paths()), None)
    return Summary(state.progress, time.perf_counter() - began, newest, result, None if complete else signals[0])


def checkpoints_of(config: TrainConfig) -> Checkpoints:
    return Checkpoints(config.folder / "checkpoints", config.checkpoints.keep)


def _steps(run: Run, state: TrainState, checkpoints: Checkpoints, record: RunRecord, interruption: Interruption) -> None:
    """Steps, evaluations and checkpoints to the end of the last epoch, or until a signal; then a last checkpoint."""
    config, progress = run.config, state.progress
    saved = progress.step
    for batch in until_interrupted(_remaining(run.data, progress, config.epochs), interruption, run.world):
        record.step(train_step(run, state, batch), batch)
        if evaluation_due(config.evaluation, progress, config.epochs):
            _evaluate(run, state, record)
        if progress.step % config.checkpoints.every_steps == 0:
            saved = _save(run, state, checkpoints, record)
    if saved != progress.step:
        _save(run, state, checkpoints, record)


def train_step(run: Run, state: TrainState, batch: PairBatch) -> Outcome:
    """One batch through the towers, and new weights. Raises NotFiniteError if nothing can be learnt any more."""
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


def _remaining(data: PairData, progress: Progress, epochs: int) -> Iterator[PairBatch]:
    """The batches from ``progress``, which the caller advances, to the end of the last epoch."""
    while progress.epoch < epochs:
        yield from data.epoch(progress.epoch, first=progress.position)


def _evaluate(run: Run, state: TrainState, record: RunRecord) -> None:
    """In the first process; the others wait for it in the next step."""
    record.gather_skipped()
    if run.world.first:
        with record.speed.pause():
            state.progress.set_metrics(evaluate(state, run.config.evaluation, run.tokenize))
        record.write("evaluation", **state.progress.metrics)


def _save(run: Run, state: TrainState, checkpoints: Checkpoints, record: RunRecord) -> int:
    """Write a checkpoint, and return its step. Every process must call this."""
    record.gather_skipped()
    with record.speed.pause():
        contents = {**state.contents(run.world), "run": asdict(run.config)}
        if run.world.first:
            checkpoints.save(state.progress.step, contents)
    return state.progress.step


def _write_result(path: Path, model: CLIP) -> Path:
    """Write the weights under open_clip's names, and the configuration from which ``clipfast.load`` builds the model."""
    contents = {"clip_config": asdict(model.config), "state_dict": export_state_dict(model)}
    write_atomically(path, lambda file: torch.save(contents, file))
    return path
