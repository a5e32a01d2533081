"""Zero-shot classification and retrieval during a run, by the first process; the training is not affected."""

from __future__ import annotations

from clipfast.data.data_sources import is_shards, open_records
from clipfast.hub.pretrained import preprocess_of
from clipfast.inference.evaluation import retrieval_metrics, zero_shot_metrics
from clipfast.training.checkpointing.train_state import Progress, TrainState
from clipfast.training.processes.random_state import RandomState
from clipfast.training.run.build import Tokenize
from clipfast.training.settings.parse import named
from clipfast.training.settings.train_config import EvaluationConfig


def evaluation_due(config: EvaluationConfig, progress: Progress, epochs: int) -> bool:
    """Whether to evaluate now: every ``config.every_steps`` steps, by default after every epoch, and at the end."""
    if config.zero_shot is None and config.retrieval is None:
        return False
    at_interval = progress.position == 0 if config.every_steps is None else progress.step % config.every_steps == 0
    return at_interval or progress.epoch == epochs


def check_sources(config: EvaluationConfig) -> None:
    """Raise for data that does not exist before the training rather than after its first epoch."""
    for key, source in (("zero_shot", config.zero_shot), ("retrieval", config.retrieval)):
        with named(f"evaluation.{key}"):
            if source is not None and not is_shards(source):
                open_records(source)


def evaluate(state: TrainState, config: EvaluationConfig, tokenize: Tokenize) -> dict[str, float]:
    """The metrics, such as "zero_shot/top1", of the model, or of its average if one is kept."""
    model = state.result
    common = (preprocess_of(model.config), tokenize)
    metrics: dict[str, float] = {}
    random = RandomState.capture()
    for kind, source, measure in (
        ("zero_shot", config.zero_shot, zero_shot_metrics),
        ("retrieval", config.retrieval, retrieval_metrics),
    ):
        if source is not None:
            measured = measure(model, source, *common, batch_size=config.batch_size)
            metrics |= {f"{kind}/{name}": value for name, value in measured.items()}
    random.restore()
    return metrics
