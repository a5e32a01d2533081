"""What CachedStep refuses, and what it says."""

from __future__ import annotations

import pytest
import torch
from cached_cases import fused

from clipfast.training import CachedStep

pytestmark = pytest.mark.usefixtures("one_thread")


def identity(x):
    return x


@pytest.mark.parametrize(
    ("arguments", "options", "error", "message"),
    [
        (([], fused, 2), {}, TypeError, "list of one or more modules or functions; got an empty list"),
        ((identity, fused, 2), {}, TypeError, "got function"),
        (([3], fused, 2), {}, TypeError, "tower 0 must be a module or a function of its input; got int"),
        (([identity], None, 2), {}, TypeError, "loss 'loss' must be a function .* got NoneType"),
        (([identity], {}, 2), {}, ValueError, "a dict of one or more; got an empty dict"),
        (([identity], fused, 0), {}, ValueError, "at least 1 row; got 0"),
        (([identity], fused, 2.0), {}, TypeError, "must be an integer.* got 2.0"),
        (([identity], fused, True), {}, TypeError, "must be an integer.* got True"),
        (([identity], fused, [2, 2]), {}, ValueError, "one for each of the 1 towers; got 2 numbers"),
        (([identity], fused, 2), {"scaler": 1.0}, TypeError, "GradScaler or None; got float"),
        (([identity], fused, 2), {"modules": [1]}, TypeError, "modules that the towers use; got int"),
    ],
)
def test_wrong_arguments(arguments: tuple, options: dict, error: type[Exception], message: str):
    with pytest.raises(error, match=message):
        CachedStep(*arguments, **options)


ROWS = torch.ones(4, 3, requires_grad=True)


@pytest.mark.parametrize(
    ("inputs", "error", "message"),
    [
        ((), ValueError, "one for each of the 1 towers; got 0 inputs"),
        ((ROWS, ROWS), ValueError, "one for each of the 1 towers; got 2 inputs"),
        (({"x": ROWS, "y": ROWS[:3].detach()},), ValueError, r"input 0\['x'\] has 4 rows, input 0\['y'\] has 3 rows"),
        ((torch.ones(()),), ValueError, "input 0 must have a tensor with a batch dimension, .*; got none"),
        ((torch.ones(0, 3),), ValueError, "input 0 must have at least one row; got an empty batch"),
        (([ROWS, {1}],), TypeError, r"input 0\[1\] must be a tensor, .*; got a set; convert it"),
    ],
)
def test_wrong_inputs(inputs: tuple, error: type[Exception], message: str):
    with pytest.raises(error, match=message):
        CachedStep([lambda x: x], lambda x: x.sum(), 2)(*inputs)


@pytest.mark.parametrize(
    ("tower", "loss", "error", "message"),
    [
        (
            lambda x: x.sum(0),
            torch.sum,
            ValueError,
            r"output of tower 0 must have one row .*; got shape \(3,\) for a chunk of 2 rows",
        ),
        (lambda x: {x}, torch.sum, TypeError, "output of tower 0 must be a tensor, .*; got a set"),
        (identity, lambda x: 1.0, TypeError, "loss 'loss' must return a tensor with one number; got float"),
        (identity, lambda x: x, ValueError, r"must return one floating-point number; got torch.float32 \(4, 3\)"),
        (torch.detach, torch.sum, ValueError, "loss must depend on something that requires a gradient; got none"),
    ],
)
def test_wrong_results(tower, loss, error: type[Exception], message: str):
    with pytest.raises(error, match=message):
        CachedStep([tower], loss, 2)(ROWS)


def test_without_gradients_it_has_nothing_to_do():
    for mode in (torch.no_grad, torch.inference_mode):
        with mode(), pytest.raises(RuntimeError, match="call it outside"):
            CachedStep([identity], torch.sum, 2)(ROWS)
