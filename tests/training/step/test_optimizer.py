"""AdamW's groups and numbers, and its learning rate."""

from __future__ import annotations

import math

import pytest
from step_cases import tiny
from tiny_run import TEXT, VISION

from clipfast.models import ClipConfig, ResNetConfig, TextConfig, VisionConfig, create_model
from clipfast.training.settings.train_config import OptimizerConfig
from clipfast.training.step.optimizer import CosineSchedule, build_optimizer, build_schedule


def test_the_learning_rate_rises_and_falls_along_a_cosine():
    schedule = CosineSchedule(peak=2.0, final=0.5, warmup_steps=4, total_steps=14)
    assert [schedule(step) for step in range(4)] == [0.5, 1.0, 1.5, 2.0]
    assert schedule(4) == 2.0
    assert schedule(9) == pytest.approx(1.25)  # half of the way: the mean
    assert schedule(13) == pytest.approx(0.5 + 0.75 * (1 + math.cos(0.9 * math.pi)))
    assert schedule(14) == 0.5
    assert CosineSchedule(1.0, 0.0, 0, 2)(0) == 1.0
    assert [build_schedule(OptimizerConfig(), steps).warmup_steps for steps in (100, 10**6)] == [10, 2000]
    with pytest.raises(ValueError, match="warmup_steps must be less than the whole run's 5 steps; got 5"):
        CosineSchedule(1.0, 0.0, 5, 5)


def test_gains_biases_and_scale_do_not_decay():
    model = tiny(loss="sigmoid")
    optimizer = build_optimizer(model, OptimizerConfig(weight_decay=0.3))
    decay = {id(p): group["weight_decay"] for group in optimizer.param_groups for p in group["params"]}
    named = {name: decay[id(p)] for name, p in model.named_parameters()}
    still = {name for name, value in named.items() if value == 0.0}
    ends = (
        ".bias",
        "_bias",
        "logit_scale",
        "class_embedding",
        "ln_pre.weight",
        "ln_post.weight",
        "ln_1.weight",
        "ln_2.weight",
        "ln_final.weight",
    )
    assert still == {name for name in named if name.endswith(ends)}
    assert {value for name, value in named.items() if name not in still} == {0.3}


def test_betas_and_eps_are_the_papers_for_each_tower():
    def used(vision: VisionConfig | ResNetConfig, **changes: float) -> tuple[tuple[float, float], float]:
        group = build_optimizer(
            create_model(ClipConfig(6, vision, TextConfig(**TEXT))), OptimizerConfig(**changes)
        ).param_groups[0]
        return group["betas"], group["eps"]

    assert used(VisionConfig(**VISION)) == ((0.9, 0.98), 1e-6)
    assert used(ResNetConfig(32, (1, 1, 1, 1), 8, 4)) == ((0.9, 0.999), 1e-8)
    assert used(VisionConfig(**VISION), eps=1e-3) == ((0.9, 0.98), 1e-3)
