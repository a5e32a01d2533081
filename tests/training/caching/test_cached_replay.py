"""CachedStep's second encoding: the random numbers, buffers and batch statistics of the first, and no more than needed."""

from __future__ import annotations

import random
import warnings

import numpy as np
import pytest
import torch
from cached_cases import Pair, assert_same, cached, fused, norm_pair, pairs, plain, towers
from torch import Tensor, nn

from clipfast.training import CachedStep

pytestmark = pytest.mark.usefixtures("one_thread")


def test_random_numbers_of_python_and_numpy_are_replayed(model: Pair):
    def tower(x: Tensor) -> Tensor:
        return model.image(x) * random.random() * float(np.random.random())

    CachedStep([tower, model.text], model.loss, 3, verify=True)(*pairs(10))


def test_verify_finds_what_is_not_replayed(model: Pair):
    own = torch.Generator().manual_seed(0)

    def tower(x: Tensor) -> Tensor:
        return model.image(x) * torch.rand(1, generator=own, dtype=torch.float64)

    before = torch.get_rng_state()
    message = "tower 0 must return the same features .*; got other ones for rows 0 to 3 the second time"
    with pytest.raises(RuntimeError, match=message):
        CachedStep([tower, model.text], model.loss, 3, verify=True)(*pairs(10))
    assert torch.equal(torch.get_rng_state(), before)


def test_towers_without_gradient_are_encoded_once(model: Pair):
    calls = {"image": 0, "text": 0}

    def counted(name: str):
        def tower(x: Tensor) -> Tensor:
            calls[name] += 1
            return getattr(model, name)(x)

        return tower

    model.image.requires_grad_(False)
    seen = []

    def loss(a: Tensor, b: Tensor) -> Tensor:
        seen.append((a.requires_grad, b.requires_grad))
        return model.loss(a, b)

    inputs = pairs(10)
    want = plain(model, towers(model), model.loss, inputs, 3)
    assert_same(cached(model, CachedStep([counted("image"), counted("text")], loss, 3), inputs), want, 1e-12)
    assert calls == {"image": 4, "text": 8}
    assert seen == [(False, True)]


def test_the_generator_moves_on_past_what_is_encoded_once(model: Pair):
    """The locked tower and the loss draw random numbers too, after the tower that is encoded again."""
    model.text.requires_grad_(False)

    def loss(a: Tensor, b: Tensor) -> Tensor:
        return model.loss(a, b) * torch.rand((), dtype=torch.float64)

    inputs = pairs(10)
    want = plain(model, towers(model), loss, inputs, 3)
    after = torch.rand(1)
    assert_same(cached(model, CachedStep(towers(model), loss, 3), inputs), want, 1e-12)
    assert torch.equal(torch.rand(1), after)


def test_graphs_are_built_once_for_each_chunk_and_one_more(model: Pair):
    modes = []

    def tower(x: Tensor) -> Tensor:
        modes.append(torch.is_grad_enabled())
        return model.image(x)

    CachedStep([tower, model.text], model.loss, 3)(*pairs(10))
    assert modes == [True, False, False, False, True, True, True, True]


def test_buffers_that_change_features_are_replayed(model: Pair):
    """Each chunk finds the value that the buffer had in its first encoding; closures of functions are searched for modules."""

    class Counted(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.register_buffer("count", torch.ones((), dtype=torch.float64))

        def forward(self, x: Tensor) -> Tensor:
            self.count = self.count + 1  # another tensor under the same name
            return model.image(x) * self.count

    counted = Counted()
    CachedStep([lambda x: 2 * counted(x), model.text], model.loss, 3, verify=True)(*pairs(10))
    assert counted.count == 5


def test_batch_statistics_warn_once_and_count_each_chunk_once():
    first, second = norm_pair()
    images, texts = pairs(10)
    for part, x in ((first, images), (second, texts)):
        with torch.no_grad():
            for chunk in x.split(4):
                part(chunk)
    wanted = [b.clone() for part in (first, second) for b in part.buffers()]
    first, second = norm_pair()
    step = CachedStep([first, second], lambda a, b: fused(a, b, 5.0), 4)
    with pytest.warns(UserWarning, match="1: batch normalisation takes its statistics from each chunk"):
        step(images, texts)
    assert all(torch.equal(b, w) for b, w in zip([*first.buffers(), *second.buffers()], wanted, strict=True))
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        step(images, texts)


def test_no_warning_where_chunks_do_not_differ():
    first, second = norm_pair()
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        CachedStep([first, second], lambda a, b: fused(a, b, 5.0), 10)(*pairs(10))
        CachedStep([first.eval(), second.eval()], lambda a, b: fused(a, b, 5.0), 4)(*pairs(10))
