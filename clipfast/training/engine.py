"""A training run from its configuration to the trained model."""

from __future__ import annotations

import time
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from signal import Signals

import torch

from clipfast.common.files import write_atomically
from clipfast.data import PairBatch, PairData
from clipfast.models import CLIP, export_state_dict
from clipfast.training.build import Tokenize
from clipfast.training.checkpoints import Checkpoints
from clipfast.training.config import TrainConfig
from clipfast.training.evaluate import evaluate, evaluation_due
from clipfast.training.interruption import interruption, until_interrupted
from clipfast.training.processes import joined
from clipfast.training.random_state import continue_random
from clipfast.training.record import Record, recording
from clipfast.training.resume import plain, restore
from clipfast.training.run import Run, prepare, train_step
from clipfast.training.state import Progress, TrainState


@dataclass(frozen=True)
class Summary:
    """How a run ended: where, after how many seconds, with which files.

    ``checkpoint`` is the newest. ``result``, the trained model, is None where ``interrupted`` says which signal came first.
    """

    progress: Progress
    seconds: float
    checkpoint: Path | None
    result: Path | None
    interrupted: Signals | None = None


def train(config: TrainConfig, *, resume: bool = False, tokenizer: Tokenize | None = None) -> Summary:
    """Train as ``config`` says, in this process or in all of torchrun's.

    In ``config.output`` there come ``log.jsonl``, ``checkpoints/`` and at the end ``model.pt``, which ``clipfast.load`` reads.
    ``resume`` goes on at the newest checkpoint, if there is one, as if the run had never stopped. ``tokenizer`` replaces
    the model's own. The global random generators of torch, NumPy and Python are seeded.

    SIGTERM and SIGINT end the run after the step, with a checkpoint. Raises ConfigError for what the configuration cannot
    mean, NotFiniteError with a diagnosis for a loss that is none, ValueError and OSError for data that cannot be read.
    """
    began = time.perf_counter()
    with joined(config.device) as world, interruption() as noted:
        run, state = prepare(config, world, tokenizer)
        checkpoints = checkpoints_of(config)
        random_states = restore(state, checkpoints, config, resume, world)
        with recording(state, world, config, run.data.steps) as record:
            event = "resumed" if random_states else "started"
            record.write(event, config=plain(config), torch=torch.__version__, processes=world.size)
            saved = state.progress.step
            continue_random(random_states, world.rank, config.seed)  # imports on the way here may have drawn some
            for batch in until_interrupted(_remaining(run.data, state.progress, config.epochs), noted, world):
                record.step(train_step(run, state, batch), batch)
                if evaluation_due(config.evaluation, state.progress, config.epochs):
                    _evaluate(run, state, record)
                if state.progress.step % config.checkpoints.every_steps == 0:
                    saved = _save(run, state, checkpoints, record)
            if saved != state.progress.step:
                _save(run, state, checkpoints, record)
            complete = state.progress.epoch == config.epochs
            result = _write_result(config.folder / "model.pt", state.result) if complete and world.first else None
            record.end("finished" if complete else "interrupted")
            signals = [number for number in world.gather(noted.signal) if number is not None]
    newest = next(iter(checkpoints.paths()), None)
    return Summary(state.progress, time.perf_counter() - began, newest, result, None if complete else signals[0])


def checkpoints_of(config: TrainConfig) -> Checkpoints:
    return Checkpoints(config.folder / "checkpoints", config.checkpoints.keep)


def _remaining(data: PairData, progress: Progress, epochs: int) -> Iterator[PairBatch]:
    """The batches from where ``progress`` is, which the caller advances, to the end of the last epoch."""
    while progress.epoch < epochs:
        yield from data.epoch(progress.epoch, first=progress.position)


def _evaluate(run: Run, state: TrainState, record: Record) -> None:
    """By the first process; the others wait for it in the next step."""
    record.settle()
    if run.world.first:
        with record.speed.pause():
            state.progress.metrics = evaluate(state, run.config.evaluation, run.tokenize)
        record.write("evaluation", **state.progress.metrics)


def _save(run: Run, state: TrainState, checkpoints: Checkpoints, record: Record) -> int:
    record.settle()
    with record.speed.pause():
        contents = {**state.contents(run.world), "run": plain(run.config)}
        if run.world.first:
            checkpoints.save(state.progress.step, contents)
    return state.progress.step


def _write_result(path: Path, model: CLIP) -> Path:
    """The weights under open_clip's names, with the configuration that ``clipfast.load`` makes the model of."""
    contents = {"clip_config": asdict(model.config), "state_dict": export_state_dict(model)}
    write_atomically(path, lambda file: torch.save(contents, file))
    return path
