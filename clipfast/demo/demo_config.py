"""The configuration of the demo's training, as a file: ``python -m clipfast train demo.toml`` repeats the training."""

from __future__ import annotations

import json
from pathlib import Path

from clipfast.common.files import write_atomically
from clipfast.demo.dataset import PAIRS, TEST, caption
from clipfast.demo.icons import HELD_OUT, IMAGE_SIZE, TRAINING_STYLES
from clipfast.text.tokenizer import VOCABULARY_SIZE
from clipfast.training.settings.toml_and_flags import configured
from clipfast.training.settings.train_config import TrainConfig

BATCH_SIZE = 250
EVALUATIONS = 10  # in the whole training
CONFIG = "demo.toml"
ROWS_PER_NAME = 2 * len(TRAINING_STYLES)

TEMPLATE = """\
# Written by python -m clipfast demo.
output = {output}
batch_size = {batch_size}
epochs = {epochs}
seed = {seed}
device = "cpu"

[model]
embed_dim = 64
vision = {{ image_size = {image_size}, patch_size = 8, width = 96, layers = 2, heads = 3 }}
text = {{ context_length = 24, vocab_size = {vocab_size}, width = 64, layers = 1, heads = 2 }}

[data]
source = {pairs}
distinct = "name"  # a second picture of a name in a batch would be a false negative
workers = 0        # pictures this small are read faster than handed over

[optimizer]
learning_rate = 2e-3
weight_decay = 0.1

[evaluation]
every_steps = {evaluate_every}
zero_shot = {{ source = {test}, caption_key = "name", templates = [{template}], workers = 0 }}

[log]
every_steps = {log_every}
"""


def write_config(folder: Path, names: int, epochs: int, seed: int) -> TrainConfig:
    """Write ``demo.toml`` into ``folder`` and read it as the training command does."""
    batch_size = min(BATCH_SIZE, names)
    steps = ROWS_PER_NAME * names // batch_size
    text = TEMPLATE.format(
        output=_quoted(folder), pairs=_quoted(folder / PAIRS), test=_quoted(folder / TEST),
        batch_size=batch_size, epochs=epochs, seed=seed, image_size=IMAGE_SIZE, vocab_size=VOCABULARY_SIZE,
        template=_quoted(caption("{}", HELD_OUT)), evaluate_every=max(1, epochs * steps // EVALUATIONS), log_every=steps,
    )  # fmt: skip
    path = folder / CONFIG
    write_atomically(path, lambda file: file.write(text.encode()))
    return configured([str(path)])


def _quoted(value: object) -> str:
    return json.dumps(str(value), ensure_ascii=False)
