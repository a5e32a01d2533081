"""Preprocessing against torchvision's, bit for bit, in every PIL mode and at odd sizes."""

from __future__ import annotations

import pickle

import numpy as np
import pytest
import torch
from peers import torchvision_transforms

from clipfast.images.preprocess import HALF, OPENAI_MEAN, OPENAI_STD, Preprocess, RandomCrop

Image = pytest.importorskip("PIL.Image")
MODES = ("RGB", "RGBA", "L", "LA", "P", "PA", "1", "CMYK", "YCbCr", "HSV", "LAB", "I;16", "I", "F")
SIZES = (
    (224, 224),
    (225, 224),
    (640, 427),
    (333, 500),
    (37, 61),
    (1, 1),
    (1, 9),
    (300, 7),
    (223, 301),
    (32, 32),
)  # width, height


def picture(mode: str, width: int, height: int):
    """Deterministic noise over a gradient, so that all values of the mode occur."""
    chance = np.random.default_rng([width, height, MODES.index(mode)])
    if mode in ("I;16", "I", "F"):
        values = {"I;16": (np.uint16, 0, 65536), "I": (np.int32, -300, 70000), "F": (np.float32, -20, 300)}[mode]
        return Image.fromarray(chance.uniform(*values[1:], (height, width)).astype(values[0]))
    noise = chance.integers(0, 256, (height, width, 4), dtype=np.uint8)
    gradient = np.linspace(0, 255, width, dtype=np.uint8)[None, :, None]
    rgba = Image.fromarray(np.where(chance.random((height, width, 1)) < 0.5, noise, gradient).astype(np.uint8), "RGBA")
    if mode in ("RGBA", "LA", "PA"):
        return rgba if mode == "RGBA" else rgba.convert("LA") if mode == "LA" else rgba.convert("LA").convert("PA")
    if mode == "LAB":
        return Image.merge("LAB", rgba.split()[:3])
    return rgba.convert("RGB").convert(mode)


def evaluation(size: int, squash: bool, mean, std):
    transforms = torchvision_transforms()
    bicubic = transforms.InterpolationMode.BICUBIC
    resize = (
        [transforms.Resize((size, size), bicubic)]
        if squash
        else [transforms.Resize(size, bicubic), transforms.CenterCrop(size)]
    )
    return transforms.Compose([*resize, lambda x: x.convert("RGB"), transforms.ToTensor(), transforms.Normalize(mean, std)])


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("squash", [False, True], ids=["openai", "siglip"])
def test_bits_equal_torchvisions(mode: str, squash: bool) -> None:
    for size in (224, 33):
        mine = Preprocess.siglip(size) if squash else Preprocess.openai(size)
        theirs = evaluation(size, squash, *((HALF, HALF) if squash else (OPENAI_MEAN, OPENAI_STD)))
        for width, height in SIZES:
            image = picture(mode, width, height)
            assert image.mode == mode
            got = mine(image)
            assert got.dtype == torch.float32
            assert got.is_contiguous()
            assert torch.equal(got, theirs(image)), (width, height, size)


@pytest.mark.parametrize("mode", ["RGB", "P", "LA", "L"])
def test_random_crops_equal_torchvisions(mode: str) -> None:
    transforms = torchvision_transforms()
    for scale, ratio in (((0.9, 1.0), (3 / 4, 4 / 3)), ((0.08, 1.0), (0.5, 2.0)), ((1.0, 1.0), (2.0, 3.0))):
        crop = transforms.RandomResizedCrop(40, scale, ratio, transforms.InterpolationMode.BICUBIC)
        normalize = transforms.Normalize(OPENAI_MEAN, OPENAI_STD)
        theirs = transforms.Compose([crop, lambda x: x.convert("RGB"), transforms.ToTensor(), normalize])
        mine = RandomCrop(40, scale=scale, ratio=ratio)
        for seed, (width, height) in enumerate(SIZES):
            image = picture(mode, width, height)
            torch.manual_seed(seed)
            expected = theirs(image)
            after = torch.rand(1)
            torch.manual_seed(seed)
            assert torch.equal(mine(image), expected), (width, height, scale)
            assert torch.equal(torch.rand(1), after)  # the same number of random numbers was drawn


def test_other_interpolations_equal_torchvisions() -> None:
    transforms = torchvision_transforms()
    image = picture("RGB", 61, 37)
    for name in Preprocess.INTERPOLATIONS:
        mode = transforms.InterpolationMode[name.upper()]
        theirs = transforms.Compose(
            [transforms.Resize((20, 20), mode), transforms.ToTensor(), transforms.Normalize(HALF, HALF)]
        )
        assert torch.equal(Preprocess(20, HALF, HALF, name, "squash")(image), theirs(image))


def test_random_crops_differ_and_stay_inside() -> None:
    image, crop = picture("RGB", 50, 40), RandomCrop(16, scale=(0.2, 0.5))
    assert not torch.equal(crop(image), crop(image))
    for _ in range(200):
        left, top, right, bottom = crop._box(50, 40)
        assert 0 <= left < right <= 50
        assert 0 <= top < bottom <= 40
        assert 0.15 < (right - left) * (bottom - top) / 2000 < 0.55


def test_preprocessings_are_values() -> None:
    """It can be compared, pickled for the workers of a data loader, and shown in a log."""
    for value in (Preprocess.openai(), Preprocess.siglip(384), RandomCrop(32)):
        assert pickle.loads(pickle.dumps(value)) == value
    assert "size=384" in repr(Preprocess.siglip(384))
    assert "resize='squash'" in repr(Preprocess.siglip(384))
    image = picture("RGBA", 30, 20)
    before = image.tobytes()
    Preprocess.openai(16)(image)
    assert image.tobytes() == before


@pytest.mark.parametrize(
    ("call", "error", "message"),
    [
        (lambda: Preprocess(0), ValueError, "size must be a whole number of at least 1; got 0"),
        (lambda: Preprocess(size=(224, 224)), ValueError, r"got \(224, 224\)"),
        (lambda: Preprocess(resize="pad"), ValueError, "resize must be one of 'crop', 'squash'; got 'pad'"),
        (
            lambda: Preprocess(interpolation="cubic"),
            ValueError,
            "one of 'nearest', 'bilinear', 'bicubic', 'lanczos'; got 'cubic'",
        ),
        (lambda: Preprocess(std=(1.0, 0.0, 1.0)), ValueError, "those of std above 0"),
        (lambda: RandomCrop(scale=(0.5, 1.5)), ValueError, "scale must be two numbers with 0 < low <= high <= 1"),
        (lambda: RandomCrop(ratio=(2.0, 1.0)), ValueError, "ratio must be two numbers with 0 < low <= high; got"),
        (lambda: Preprocess()("cat.png"), TypeError, "image must be a PIL image; got str; open a file with PIL.Image.open"),
        (lambda: Preprocess()(torch.zeros(3, 5, 5)), TypeError, "image must be a PIL image; got Tensor"),
        (lambda: Preprocess()(Image.new("RGB", (0, 4))), ValueError, r"image must have at least one pixel; got size \(0, 4\)"),
    ],
)
def test_argument_errors(call, error, message) -> None:
    with pytest.raises(error, match=message):
        call()
