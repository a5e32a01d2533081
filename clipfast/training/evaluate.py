"""Zero-shot classification and retrieval in between, by the first process, which leaves no trace in the training."""

from __future__ import annotations

from clipfast.data.pairs import is_shards, open_records
from clipfast.hub.pretrained import preprocess_of
from clipfast.inference.evaluation import retrieval_metrics, zero_shot_metrics
from clipfast.training.build import Tokenize
from clipfast.training.config import EvaluationConfig
from clipfast.training.random_state import random_state, set_random_state
from clipfast.training.sources import named
from clipfast.training.state import Progress, TrainState


def evaluation_due(config: EvaluationConfig, progress: Progress, epochs: int) -> bool:
    """Every so many steps, or after every epoch; and at the end."""
    if config.zero_shot is None and config.retrieval is None:
        return False
    at_interval = progress.position == 0 if config.every_steps is None else progress.step % config.every_steps == 0
    return at_interval or progress.epoch == epochs


def check_sources(config: EvaluationConfig) -> None:
    """Raise for what is not there before the training, and not after its first epoch."""
    for key, source in (("zero_shot", config.zero_shot), ("retrieval", config.retrieval)):
        with named(f"evaluation.{key}"):
            if source is not None and not is_shards(source):
                open_records(source)


def evaluate(state: TrainState, config: EvaluationConfig, tokenize: Tokenize) -> dict[str, float]:
    """The metrics of the model, or of its average where one is kept, such as "zero_shot/top1"."""
    model = state.result
    common = (preprocess_of(model.config), tokenize)
    metrics: dict[str, float] = {}
    before = random_state()
    for kind, source, measure in (
        ("zero_shot", config.zero_shot, zero_shot_metrics),
        ("retrieval", config.retrieval, retrieval_metrics),
    ):
        if source is not None:
            found = measure(model, source, *common, batch_size=config.batch_size)
            metrics |= {f"{kind}/{name}": value for name, value in found.items()}
    set_random_state(before)
    return metrics
