"""CachedStep on one process: equal to the step with the whole graph, in every way of calling it."""

from __future__ import annotations

from collections import namedtuple

import pytest
import torch
from cached_cases import Pair, assert_same, cached, fused, gradients, pairs, plain, towers, whole
from helpers import error
from torch import Tensor, nn

from clipfast import clip_loss, info_nce_loss, siglip_loss
from clipfast.training import CachedStep

pytestmark = pytest.mark.usefixtures("one_thread")
Side = namedtuple("Side", "values weight")


@pytest.mark.parametrize(("n", "chunk"), [(33, 33), (33, 50), (33, 17), (34, 17), (1, 1), (1, 4), (2, 1)])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=str)
def test_same_bits_with_dropout(n: int, chunk: int, dtype: torch.dtype):
    """One or two chunks: a sum of two numbers is the same in either order."""
    torch.manual_seed(0)
    model, inputs = Pair(dtype=dtype), pairs(n, dtype)
    want = plain(model, towers(model), model.loss, inputs, chunk)
    assert_same(cached(model, CachedStep(towers(model), model.loss, chunk), inputs), want)


@pytest.mark.parametrize(("n", "chunk"), [(33, 1), (33, 5), (33, 16), (40, 8), (5, 2)])
def test_many_chunks_with_dropout(model: Pair, n: int, chunk: int):
    inputs = pairs(n)
    want = plain(model, towers(model), model.loss, inputs, chunk)
    assert_same(cached(model, CachedStep(towers(model), model.loss, chunk, verify=True), inputs), want, 1e-12)


def test_chunks_change_nothing_without_dropout():
    model, inputs = Pair(dropout=0.0), pairs(33)
    want = plain(model, towers(model), model.loss, inputs, 33)
    for chunk in ([4, 9], [33, 1]):
        assert_same(cached(model, CachedStep(towers(model), model.loss, chunk), inputs), want, 1e-12)


def test_gradients_accumulate_and_the_generator_moves_on_as_without_graph(model: Pair):
    inputs, step = pairs(12), CachedStep(towers(model), model.loss, 5)
    torch.manual_seed(3)
    step(*inputs)
    once, after = gradients(model), torch.rand(1)
    torch.manual_seed(3)
    step(*inputs)
    assert torch.equal(torch.rand(1), after)
    assert all(error(g, 2 * once[name]) <= 1e-12 for name, g in gradients(model).items())
    torch.manual_seed(3)
    plain(model, towers(model), model.loss, inputs, 5, seed=3)
    assert torch.equal(torch.rand(1), after)


def test_one_module_as_both_towers(model: Pair):
    shared, inputs = [model.image, model.image], pairs(10)
    want = plain(model, shared, model.loss, inputs, 10)
    assert_same(cached(model, CachedStep(shared, model.loss, 10), inputs), want)
    want = plain(model, shared, model.loss, inputs, 3)
    assert_same(cached(model, CachedStep(shared, model.loss, 3), inputs), want, 1e-12)


def test_one_tower_that_returns_everything(model: Pair):
    """A scale among the outputs gets its gradient once."""
    inputs = pairs(10)
    want = plain(model, towers(model), model.loss, inputs, 10)
    assert_same(cached(model, CachedStep([model], whole, 10), [inputs]), want)
    model = Pair(dropout=0.0)
    want = plain(model, towers(model), model.loss, inputs, 10)
    assert_same(cached(model, CachedStep([model], whole, 3), [list(inputs)]), want, 1e-12)


def test_three_towers_of_different_lengths(model: Pair):
    """Mined negatives: more keys than queries."""
    (queries, keys), (negatives, _) = pairs(7), pairs(11, seed=5)

    def loss(q: Tensor, k: Tensor, n: Tensor) -> Tensor:
        return info_nce_loss(q, torch.cat([k, n]), model.log_scale.exp(), normalize=True)

    three, inputs = [model.image, model.text, model.text], (queries, keys, negatives)
    want = plain(model, three, loss, inputs, 4)
    assert_same(cached(model, CachedStep(three, loss, 4), inputs), want, 1e-12)


def test_several_losses(model: Pair):
    bias = nn.Parameter(torch.tensor(-2.0, dtype=torch.float64))
    losses = {
        "clip": lambda a, b: 0.7 * clip_loss(a, b, model.log_scale.exp(), normalize=True),
        "siglip": lambda a, b: 0.3 * siglip_loss(a, b, model.log_scale.exp(), bias, normalize=True),
        "watched": lambda a, b: (a.detach() - b.detach()).square().mean(),
    }
    inputs = pairs(9)
    want = plain(model, towers(model), lambda a, b: sum(f(a, b) for f in losses.values()), inputs, 4)
    wanted_bias, bias.grad = bias.grad, None
    model.zero_grad()
    torch.manual_seed(1)
    result = CachedStep(towers(model), losses, 4)(*inputs)
    assert_same((result.loss, gradients(model)), want, 1e-12)
    assert error(bias.grad, wanted_bias) <= 1e-12
    assert list(result.losses) == list(losses)
    assert not any(x.requires_grad for x in (result.loss, *result.losses.values(), *result.features))


def test_nested_inputs_and_outputs(model: Pair):
    """Dicts, lists, named tuples, numbers and None go in; a dict with a matrix and a cube comes out."""

    def image(batch: dict) -> dict:
        side, (mask,) = batch["side"], batch["masks"]
        assert side.weight == 2.0
        assert batch["none"] is None
        x = model.image(side.values * side.weight) * mask[:, None]
        return {"pooled": x, "tokens": torch.stack([x, x.tanh()], 1), "scale": 3.0}

    def loss(a: dict, b: Tensor) -> Tensor:
        return fused(a["pooled"], b, a["scale"]) + a["tokens"].square().mean()

    images, texts = pairs(10)
    batch = {"side": Side(images, 2.0), "masks": [torch.linspace(0.5, 2, 10, dtype=torch.float64)], "none": None}
    model.eval()
    loss(image(batch), model.text(texts)).backward()
    want = gradients(model)
    model.zero_grad()
    CachedStep([image, model.text], loss, 3)(batch, texts)
    for name, grad in gradients(model).items():
        assert (grad is None) == (want[name] is None)
        assert grad is None or error(grad, want[name]) <= 1e-12


def test_inputs_not_contiguous_and_inputs_with_gradients(model: Pair):
    base = torch.randn(5, 22, dtype=torch.float64).requires_grad_()
    leaf = torch.randn(11, 5, dtype=torch.float64).requires_grad_()
    strided = base.detach().T[::2]
    want = plain(model, towers(model), model.loss, (strided, leaf), 4)
    wanted, leaf.grad = leaf.grad, None
    assert_same(cached(model, CachedStep(towers(model), model.loss, 4), (strided, leaf)), want, 1e-12)
    assert error(leaf.grad, wanted) <= 1e-12
    with pytest.raises(ValueError, match="graph of its own"):
        CachedStep(towers(model), model.loss, 4)(base.T[::2], leaf)


@pytest.mark.parametrize("chunk", [4, 8])
def test_autocast_is_as_around_a_plain_step(chunk: int):
    torch.manual_seed(0)
    model, inputs = Pair(dtype=torch.float32), pairs(8, torch.float32)
    model.zero_grad()
    torch.manual_seed(1)
    # Without autocast's cache each chunk casts the weights anew, and their gradients are added in float32, as in CachedStep.
    with torch.autocast("cpu", dtype=torch.bfloat16, cache_enabled=False):
        features = [torch.cat([tower(p) for p in x.split(chunk)]) for tower, x in zip(towers(model), inputs, strict=True)]
        value = model.loss(*features)
    value.backward()
    want = value.detach(), gradients(model)
    step, seen = CachedStep(towers(model), model.loss, chunk), []
    model.image[3].register_full_backward_hook(lambda *_: seen.append(torch.is_autocast_enabled("cpu")))
    with torch.autocast("cpu", dtype=torch.bfloat16):
        got = cached(model, step, inputs)
        assert torch.is_autocast_enabled("cpu")
    assert_same(got, want)
    assert seen == [False] * (8 // chunk)


def test_grad_scaler(model: Pair):
    inputs = pairs(8)
    want = plain(model, towers(model), model.loss, inputs, 4)
    scaler = torch.amp.GradScaler("cpu", init_scale=256.0)
    value, scaled = cached(model, CachedStep(towers(model), model.loss, 4, scaler=scaler), inputs)
    assert_same((value, {name: g / 256 for name, g in scaled.items()}), want)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    before = model.log_scale.item()
    scaler.step(optimizer)
    scaler.update()
    assert model.log_scale.item() == pytest.approx(before - 0.1 * float(want[1]["log_scale"]), rel=1e-12)
