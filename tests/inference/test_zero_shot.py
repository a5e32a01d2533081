"""The zero-shot classifier against its definition, with randomly initialised models."""

from __future__ import annotations

from functools import partial

import pytest
import torch
import torch.nn.functional as F
from peers import torchvision_transforms
from torch import nn

from clipfast import models
from clipfast.inference.zero_shot import ZeroShotClassifier, evaluation
from clipfast.text.prompts import fill
from clipfast.text.tokenizer import tokenize

NAMES = ["cat", "dog", "crane bird", "crane machine", "{odd}"]
TEMPLATES = ["a photo of a {}.", "{}", lambda name: f"the {name.upper()} and {{}}"]
TEXT = models.TextConfig(context_length=24, vocab_size=49408, width=32, layers=1, heads=2)
SOFTMAX = models.ClipConfig(16, models.VisionConfig(16, 8, 32, 1, 2), TEXT)
SIGMOID = models.ClipConfig(16, models.VisionConfig(16, 8, 32, 1, 2), TEXT, loss="sigmoid")


def make(config: models.ClipConfig) -> models.CLIP:
    torch.manual_seed(0)
    model = models.create_model(config)
    with torch.no_grad():  # randomly initialised models hardly tell texts apart
        model.token_embedding.weight.mul_(50)
    return model.train()


@pytest.fixture(scope="module")
def model() -> models.CLIP:
    return make(SOFTMAX)


IMAGES = torch.randn(7, 3, 16, 16, generator=torch.Generator().manual_seed(1))


def by_definition(model: models.CLIP, names: list[str]) -> torch.Tensor:
    rows = []
    with torch.no_grad():
        for name in names:
            prompts = [f"a photo of a {name}.", name, f"the {name.upper()} and {{}}"]
            each = [F.normalize(model.encode_text(tokenize([prompt], 24)), dim=1)[0] for prompt in prompts]
            rows.append(F.normalize(sum(each) / 3, dim=0))
    return torch.stack(rows)


@pytest.mark.parametrize("at_once", [1, 4, 6, 256])
def test_classes_are_normalised_means_of_normalised_prompts(model, at_once: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("clipfast.inference.zero_shot.PROMPTS_AT_ONCE", at_once)
    classifier = ZeroShotClassifier(model, NAMES, TEMPLATES)
    expected = by_definition(model, NAMES)
    torch.testing.assert_close(classifier.class_features, expected, rtol=1e-5, atol=1e-6)
    assert (expected[0] - expected[1]).abs().max() > 1e-2  # otherwise the comparison above would mean nothing
    assert repr(classifier) == "ZeroShotClassifier(5 classes, features of width 16)"


@pytest.mark.parametrize("config", [SOFTMAX, SIGMOID], ids=lambda config: config.loss)
def test_logits_and_probabilities_are_the_models(config: models.ClipConfig) -> None:
    model = make(config)
    classifier = ZeroShotClassifier(model, NAMES, "a {}")
    with torch.no_grad():
        expected = model(IMAGES, tokenize([f"a {name}" for name in NAMES], 24))[0]
        features = 3 * model.encode_image(IMAGES)
    torch.testing.assert_close(classifier.logits(IMAGES), expected, rtol=1e-5, atol=1e-5)
    torch.testing.assert_close(classifier.logits_of(features), expected, rtol=1e-5, atol=1e-5)
    probabilities = classifier.probabilities(IMAGES)
    torch.testing.assert_close(probabilities, expected.softmax(1) if config is SOFTMAX else expected.sigmoid())
    assert torch.equal(classifier.predict(IMAGES), expected.argmax(1))
    values, places = classifier.top_k(IMAGES, 3)
    assert torch.equal(places, expected.topk(3).indices)
    assert torch.equal(values, probabilities.gather(1, places))


def test_classes_equal_open_clips_for_its_model() -> None:
    torchvision_transforms()  # open_clip imports it
    open_clip = pytest.importorskip("open_clip", exc_type=ImportError)
    torch.manual_seed(0)
    vision = {"layers": 1, "width": 64, "patch_size": 8, "image_size": 16}
    model = open_clip.CLIP(16, vision, {"vocab_size": 49408, "width": 64, "heads": 1, "layers": 1}, quick_gelu=True)
    templates = ["a photo of a {}.", "the {}"]
    functions = [partial(fill, template) for template in templates]
    theirs = open_clip.build_zero_shot_classifier(model, open_clip.SimpleTokenizer(), NAMES, functions)
    classifier = ZeroShotClassifier(model, NAMES, templates)
    torch.testing.assert_close(classifier.class_features, theirs.T, rtol=1e-5, atol=1e-6)
    assert classifier.logits(IMAGES).shape == (7, 5)


def test_half_weights_give_float32_results(model) -> None:
    half = make(SOFTMAX).to(torch.bfloat16)
    classifier = ZeroShotClassifier(half, NAMES)
    assert classifier.class_features.dtype == classifier.logits(IMAGES).dtype == torch.float32
    assert torch.allclose(classifier.class_features, ZeroShotClassifier(model, NAMES).class_features, atol=0.05)


def test_the_models_mode_and_gradients_are_left_alone() -> None:
    model = nn.Sequential(nn.Dropout(), nn.Sequential(nn.BatchNorm1d(3))).train()
    model[1].eval()
    try:
        with evaluation(model):
            assert not any(module.training for module in model.modules())
            assert not torch.is_grad_enabled()
            raise KeyError
    except KeyError:
        pass
    assert [module.training for module in model.modules()] == [True, True, False, False]
    assert torch.is_grad_enabled()


def test_another_tokenizer_and_another_vocabulary() -> None:
    small = models.create_model(models.ClipConfig(16, SOFTMAX.vision, models.TextConfig(8, 100, 32, 1, 2)))
    with pytest.raises(
        ValueError, match=r"tokenizer must be given for a model .* OpenAI's 49408 ids; got a model with 100; for SigLIP pass"
    ):
        ZeroShotClassifier(small, NAMES)
    letters = lambda texts: torch.tensor([[ord(c) % 100 for c in text[:8].ljust(8)] for text in texts])  # noqa: E731
    assert ZeroShotClassifier(small, NAMES, tokenizer=letters).logits(IMAGES).shape == (7, 5)


@pytest.mark.parametrize(
    ("arguments", "error", "message"),
    [
        (("cat",), TypeError, "class_names must be a list of strings, one for each class; got 'cat'"),
        ((["cat", 3],), TypeError, "must be a list of strings"),
        (([],), ValueError, "class_names must be one name or more; got none"),
        ((NAMES, []), ValueError, "templates must be one or more, .*; got none"),
        (
            (NAMES, "a photo"),
            ValueError,
            "a template must be a string with {} for the name, or a function of the name; got 'a p",
        ),
        ((NAMES, ["{}", 3]), ValueError, "got 3"),
        ((["word " * 30],), RuntimeError, "is too long for context length 24"),
    ],
)
def test_argument_errors(model, arguments, error, message) -> None:
    with pytest.raises(error, match=message):
        ZeroShotClassifier(model, *arguments)
    with pytest.raises(ValueError, match=r"k must be a whole number in \[1, 5\]"):
        ZeroShotClassifier(model, NAMES).top_k(IMAGES, 6)
