"""The parts of a training run by themselves: schedule, groups, update, precision, checkpoints, log, diagnosis."""

from __future__ import annotations

import math
import random
import re
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor
from train_cases import TEXT, VISION

from clipfast.models import CLIP, ClipConfig, ResNetConfig, TextConfig, VisionConfig, create_model, model_config
from clipfast.training.build import build_model, build_tokenizer
from clipfast.training.checkpoints import Checkpoints
from clipfast.training.config import ModelConfig, OptimizerConfig
from clipfast.training.diagnosis import diagnose
from clipfast.training.log import opened, read_log
from clipfast.training.optimizer import build_optimizer
from clipfast.training.processes import World
from clipfast.training.progress_bar import progress_bar
from clipfast.training.random_state import random_state, seed_all, set_random_state
from clipfast.training.schedule import CosineSchedule, default_warmup
from clipfast.training.sources import ConfigError
from clipfast.training.update import Update, averaged

ALONE = World(0, 1, torch.device("cpu"))
OFF = torch.amp.GradScaler("cpu", enabled=False)


def tiny(**changes: str) -> CLIP:
    torch.manual_seed(0)
    return create_model(ClipConfig(6, VisionConfig(**VISION), TextConfig(**TEXT), **changes))


def test_the_learning_rate_rises_and_falls_along_a_cosine():
    schedule = CosineSchedule(peak=2.0, final=0.5, warmup_steps=4, total_steps=14)
    assert [schedule(step) for step in range(4)] == [0.5, 1.0, 1.5, 2.0]
    assert schedule(4) == 2.0
    assert schedule(9) == pytest.approx(1.25)  # half of the way: the mean
    assert schedule(13) == pytest.approx(0.5 + 0.75 * (1 + math.cos(0.9 * math.pi)))
    assert schedule(14) == 0.5
    assert CosineSchedule(1.0, 0.0, 0, 2)(0) == 1.0
    assert (default_warmup(100), default_warmup(10**6)) == (10, 2000)
    with pytest.raises(ValueError, match="warmup_steps is 5, but the whole run has 5 steps"):
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


def with_gradients(model: CLIP, value: float) -> list[Tensor]:
    for parameter in model.parameters():
        parameter.grad = torch.full_like(parameter, value)
    return [p.grad for p in model.parameters() if p.grad is not None]


def test_an_update_clips_all_gradients_together_and_clamps_the_scale():
    model = tiny()
    count = sum(p.numel() for p in model.parameters())
    gradients = with_gradients(model, -2.0)
    model.logit_scale.data.fill_(4.6)
    outcome = Update(model, torch.optim.SGD(model.parameters(), lr=10.0), OFF, max_gradient_norm=1.0)(torch.tensor(0.25))
    assert outcome == (0.25, pytest.approx(2.0 * count**0.5), True)
    assert torch.cat([g.flatten() for g in gradients]).norm().item() == pytest.approx(1.0, abs=1e-5)
    assert model.logit_scale.item() == pytest.approx(math.log(100))


@pytest.mark.parametrize(("loss", "gradient"), [(math.nan, 1.0), (math.inf, 1.0), (1.0, math.nan), (1.0, math.inf)])
def test_what_is_not_finite_changes_nothing(loss: float, gradient: float):
    model = tiny()
    before = {name: value.clone() for name, value in model.state_dict().items()}
    average = averaged(model, 0.5)
    gradients = with_gradients(model, 1.0)
    gradients[3][0] = gradient
    outcome = Update(model, torch.optim.SGD(model.parameters(), lr=1.0), OFF, average, 1.0)(torch.tensor(loss))
    assert not outcome.applied
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())
    assert average is not None
    assert average.n_averaged == 0
    assert gradients[0].eq(1.0).all()  # not spread by clipping, so that the diagnosis finds the right one


def test_an_overflow_halves_the_scale():
    model = tiny()
    scaler = torch.amp.GradScaler("cpu", init_scale=8.0)
    scaler.scale(torch.tensor(1.0))
    with_gradients(model, math.inf)
    assert not Update(model, torch.optim.SGD(model.parameters(), lr=1.0), scaler)(torch.tensor(1.0)).applied
    assert scaler.get_scale() == 4.0


def test_the_average_follows_by_its_decay():
    model = tiny()
    average = averaged(model, 0.75)
    assert average is not None
    update = Update(model, torch.optim.SGD(model.parameters(), lr=1.0), OFF, average)
    want = None
    for _ in range(3):
        with_gradients(model, 0.1)
        update(torch.tensor(1.0))
        bias = model.visual.ln_post.bias.detach().clone()
        want = bias if want is None else 0.75 * want + 0.25 * bias
    assert want is not None
    torch.testing.assert_close(average.module.visual.ln_post.bias.detach(), want)
    assert averaged(model, None) is None


def test_the_average_has_the_running_statistics_too():
    model = create_model(ClipConfig(6, ResNetConfig(32, (1, 1, 1, 1), 8, 4), TextConfig(**TEXT)))
    average = averaged(model, 0.75)
    assert average is not None
    for mean in (0.0, 1.0):
        model.visual.bn1.running_mean.fill_(mean)
        average.update_parameters(model)
    assert average.module.visual.bn1.running_mean.eq(0.25).all()


def test_random_numbers_go_on_where_they_were(tmp_path: Path):
    def draw() -> tuple[float, float, float]:
        return torch.rand(1).item(), np.random.normal(), random.random()

    seed_all(3)
    first = draw()
    torch.save(random_state(), tmp_path / "state.pt")
    want = draw()
    set_random_state(torch.load(tmp_path / "state.pt", weights_only=True))
    assert draw() == want
    seed_all(3)
    assert draw() == first


def test_the_newest_whole_checkpoint_is_found(tmp_path: Path):
    checkpoints = Checkpoints(tmp_path, keep=2)
    assert checkpoints.newest() is None
    for step in (9, 10, 100_000_000):
        checkpoints.save(step, {"value": torch.full((50,), float(step))})
    assert [path.name for path in checkpoints.paths()] == ["step-100000000.pt", "step-00000010.pt"]
    newest = checkpoints.path(100_000_000)
    for damaged in (newest.read_bytes()[:-40], b""):
        newest.write_bytes(damaged)
        with pytest.warns(UserWarning, match=r"step-100000000\.pt is damaged and is passed over"):
            found = checkpoints.newest()
        assert found is not None
        assert found[0] == checkpoints.path(10)
        assert found[1]["value"].eq(10).all()
    (tmp_path / ".step-00000011.pt.x1y2").write_bytes(b"half")
    checkpoints.remove_unfinished()
    for step in (11, 12):
        checkpoints.save(step, {})  # the damaged one is later than both, and takes no place from them
    files = sorted(path.name for path in tmp_path.iterdir())
    assert files == ["step-00000011.pt", "step-00000012.pt", "step-100000000.pt"]


def test_a_checkpoint_runs_no_code(tmp_path: Path):
    checkpoints = Checkpoints(tmp_path, keep=1)
    torch.save({"code": Path}, checkpoints.path(1))
    with pytest.warns(UserWarning, match="passed over"), pytest.raises(ValueError, match=r"no checkpoint in .* can be read"):
        checkpoints.newest()


def test_the_log_forgets_what_will_come_again(tmp_path: Path):
    with opened(tmp_path, 0) as log:
        for step in (1, 2, 3):
            log.write("step", step, loss=1.0 / step, norm=math.inf)
    with (tmp_path / "log.jsonl").open("a") as file:
        file.write('7\n{"event": "st')  # the process was killed
    with opened(tmp_path, 2) as log:
        log.write("resumed", 2, name="ü\u2028")
    lines = read_log(tmp_path / "log.jsonl")
    assert [(line["event"], line["step"]) for line in lines] == [("step", 1), ("step", 2), ("resumed", 2)]
    assert lines[0] == {"event": "step", "step": 1, "loss": 1.0, "norm": None}


def test_a_bar_on_a_terminal(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]):
    monkeypatch.setenv("FORCE_COLOR", "1")  # rich then takes any output for a terminal
    monkeypatch.setenv("COLUMNS", "150")
    with progress_bar(10, 2, True, 5) as show:
        show(7, "loss 1.5")
    shown = re.sub(r"\x1b\[[0-9;?]*[a-zA-Z]", "", capsys.readouterr().out)
    assert " 7/10 loss 1.5" in shown
    with progress_bar(10, 2, False, 5) as show:
        show(7, "loss 1.5")
    assert capsys.readouterr().out == ""


def spoiled(where: str) -> tuple[CLIP, Tensor, list[Tensor]]:
    """A model after a step on two pictures, with one number of ``where`` that is none."""
    model, images = tiny(), torch.zeros(2, 3, 8, 8)
    gradients = with_gradients(model, 1.0)
    features = [torch.ones(2, 6), torch.ones(2, 6), torch.tensor(10.0)]
    if where == "parameter":
        model.visual.conv1.weight.data[0, 0, 0, 0] = math.nan
    elif where == "scale":
        model.logit_scale.data.fill_(math.nan)
    elif where == "picture":
        images[1, 0, 3, 3] = math.inf
    elif where == "gradient":
        gradients[[name for name, _ in model.named_parameters()].index("text_projection")][0, 0] = math.nan
    elif where != "nothing":
        features[("image features", "text features").index(where)][1, 2] = math.inf
    return model, images, features


@pytest.mark.parametrize(
    ("where", "found"),
    [
        ("parameter", r"the parameter visual\.conv1\.weight has 1 values of 384 .* lower optimizer\.learning_rate"),
        ("scale", r"the parameter logit_scale has 1 values of 1 "),
        ("picture", r"1 of the batch's 2 pictures, the first at place 1, .*look at the file"),
        ("image features", r"1 of 12 values of the image features .* bfloat16"),
        ("text features", r"1 of 12 values of the text features .* bfloat16"),
        ("gradient", r"the gradient of text_projection has 1 values of 48 "),
        ("nothing", r"the loss alone is not finite"),
    ],
)
def test_a_diagnosis_names_the_first_cause(where: str, found: str):
    model, images, features = spoiled(where)
    with pytest.raises(AssertionError, match=found):
        raise AssertionError(diagnose(model, images, features, ALONE))


def test_a_model_as_the_configuration_says(tmp_path: Path):
    described = ModelConfig(
        embed_dim=6, vision=VisionConfig(**VISION), text=TextConfig(**TEXT),
        lock_image_tower=True, gradient_checkpointing=True,
    )  # fmt: skip
    model = build_model(described, torch.device("cpu"), torch.float64)
    assert {p.dtype for p in model.parameters()} == {torch.float64}
    assert not any(p.requires_grad for p in model.visual.parameters())
    assert model.text_projection.requires_grad
    assert model.visual.transformer.grad_checkpointing
    torch.save(model.state_dict(), tmp_path / "start.pt")
    again = build_model(
        ModelConfig(embed_dim=6, vision=described.vision, text=described.text, weights=str(tmp_path / "start.pt")),
        torch.device("cpu"),
        torch.float32,
    )
    assert torch.equal(again.visual.conv1.weight, model.visual.conv1.weight.float())


def test_a_locked_resnet_keeps_its_statistics():
    resnet = ResNetConfig(32, (1, 1, 1, 1), 8, 4)
    described = ModelConfig(embed_dim=6, vision=resnet, text=TextConfig(**TEXT), lock_image_tower=True)
    model = build_model(described, torch.device("cpu"), torch.float32)
    before = model.visual.bn1.running_mean.clone()
    model.train().encode_image(torch.rand(2, 3, 32, 32))
    assert torch.equal(model.visual.bn1.running_mean, before)


def test_a_tokenizer_that_fits_the_model():
    tokens = build_tokenizer(ModelConfig(name="ViT-tiny"))(["a dog", "word " * 100])
    assert tokens.shape == (2, 77)
    assert tokens[1, -1] == tokens[0].max()  # the end of a text that was cut
    shape = model_config("SigLIP-tiny")
    with pytest.raises(ConfigError, match=r"vocabulary of 32000, and OpenAI's tokenizer has 49408 ids; .*model\.sentencepiece"):
        build_tokenizer(ModelConfig(embed_dim=128, vision=shape.vision, text=shape.text))
