"""The diagnosis names what was not finite first, and gives advice."""

from __future__ import annotations

import math

import pytest
import torch
from step_cases import tiny, with_gradients
from tiny_run import ALONE
from torch import Tensor

from clipfast.models import CLIP
from clipfast.training.step.diagnosis import diagnose


def spoiled(where: str) -> tuple[CLIP, Tensor, list[Tensor]]:
    """A model after a step on two pictures, with one number at ``where`` that is not finite."""
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
