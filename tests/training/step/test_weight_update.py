"""One update of the weights: clipping, overflow, the clamp of the scale, the average."""

from __future__ import annotations

import math

import pytest
import torch
from step_cases import tiny, with_gradients
from tiny_run import TEXT

from clipfast.models import ClipConfig, ResNetConfig, TextConfig, create_model
from clipfast.training.step.weight_update import Update, build_average

OFF = torch.amp.GradScaler("cpu", enabled=False)


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
    average = build_average(model, 0.5)
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
    average = build_average(model, 0.75)
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
    assert build_average(model, None) is None


def test_the_average_has_the_running_statistics_too():
    model = create_model(ClipConfig(6, ResNetConfig(32, (1, 1, 1, 1), 8, 4), TextConfig(**TEXT)))
    average = build_average(model, 0.75)
    assert average is not None
    for mean in (0.0, 1.0):
        model.visual.bn1.running_mean.fill_(mean)
        average.update_parameters(model)
    assert average.module.visual.bn1.running_mean.eq(0.25).all()
