"""From pictures to the tensors that image towers read, with PIL and numpy, bit for bit as torchvision's transforms."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

import numpy as np
import torch
from torch import Tensor

from clipfast.common.argument_checks import check_choice, check_whole_number
from clipfast.common.extras import require

if TYPE_CHECKING:
    from PIL.Image import Image

OPENAI_MEAN = (0.48145466, 0.4578275, 0.40821073)
OPENAI_STD = (0.26862954, 0.26130258, 0.27577711)
HALF = (0.5, 0.5, 0.5)

Box = tuple[int, int, int, int]
Triple = tuple[float, float, float]


@dataclass(frozen=True)
class _Pixels:
    """What evaluation and training share: the side of the square in pixels, and the normalisation of its colours."""

    size: int = 224
    mean: Triple = OPENAI_MEAN
    std: Triple = OPENAI_STD
    interpolation: str = "bicubic"

    INTERPOLATIONS: ClassVar[tuple[str, ...]] = ("nearest", "bilinear", "bicubic", "lanczos")

    def __post_init__(self) -> None:
        check_whole_number("size", self.size, 1)
        check_choice("interpolation", self.interpolation, self.INTERPOLATIONS)
        if len(self.mean) != 3 or len(self.std) != 3 or not all(s > 0 for s in self.std):
            raise ValueError(f"mean and std must be three numbers each, those of std above 0; got {self.mean} and {self.std}")

    def _resized(self, image: Image, width: int, height: int) -> Image:
        if image.size == (width, height):
            return image
        filters = require("PIL.Image", "preprocessing", "pillow").Resampling
        return image.resize((width, height), filters[self.interpolation.upper()])

    def _normalized(self, image: Image) -> Tensor:
        pixels = np.asarray(image.convert("RGB"), dtype=np.float32) / np.float32(255)
        pixels -= np.asarray(self.mean, dtype=np.float32)
        pixels /= np.asarray(self.std, dtype=np.float32)
        return torch.from_numpy(np.ascontiguousarray(pixels.transpose(2, 0, 1)))


@dataclass(frozen=True)
class Preprocess(_Pixels):
    """A PIL image of any mode -> float32 (3, size, size): ``resize``, then RGB, [0, 1], minus ``mean`` over ``std``.

    ``resize="crop"`` scales the shorter side to ``size`` and cuts the middle out of the longer one (OpenAI's way);
    ``"squash"`` scales both sides to ``size`` (SigLIP's). The picture is resized in its own mode, as in the originals.
    """

    resize: str = "crop"

    RESIZES: ClassVar[tuple[str, ...]] = ("crop", "squash")

    def __post_init__(self) -> None:
        super().__post_init__()
        check_choice("resize", self.resize, self.RESIZES)

    @classmethod
    def openai(cls, size: int = 224) -> Preprocess:
        """The preprocessing of OpenAI's CLIP, and of EVA-CLIP."""
        return cls(size)

    @classmethod
    def siglip(cls, size: int = 224) -> Preprocess:
        """The preprocessing of SigLIP and SigLIP 2."""
        return cls(size, HALF, HALF, resize="squash")

    def __call__(self, image: Image) -> Tensor:
        _check_image(image)
        return self._normalized(self._middle(image) if self.resize == "crop" else self._resized(image, self.size, self.size))

    def _middle(self, image: Image) -> Image:
        width, height = image.size
        long = int(self.size * max(width, height) / min(width, height))
        image = self._resized(image, self.size, long) if width <= height else self._resized(image, long, self.size)
        left, top = (round((side - self.size) / 2.0) for side in image.size)
        return image.crop((left, top, left + self.size, top + self.size))


@dataclass(frozen=True)
class RandomCrop(_Pixels):
    """For training: a random part of the picture, ``scale`` of its area and ``ratio`` of width to height, at ``size``.

    Draws from torch's global generator as ``torchvision.transforms.RandomResizedCrop`` does, and gives the same crops.
    The defaults are open_clip's.
    """

    scale: tuple[float, float] = (0.9, 1.0)
    ratio: tuple[float, float] = (3 / 4, 4 / 3)

    TRIES: ClassVar[int] = 10

    def __post_init__(self) -> None:
        super().__post_init__()
        for name, (low, high) in (("scale", self.scale), ("ratio", self.ratio)):
            if not 0 < low <= high or (name == "scale" and high > 1):
                limits = "0 < low <= high <= 1" if name == "scale" else "0 < low <= high"
                raise ValueError(f"{name} must be two numbers with {limits}; got {(low, high)}")

    def __call__(self, image: Image) -> Tensor:
        _check_image(image)
        return self._normalized(self._resized(image.crop(self._box(*image.size)), self.size, self.size))

    def _box(self, width: int, height: int) -> Box:
        """Left, top, right, bottom."""
        for _ in range(self.TRIES):
            area = width * height * torch.empty(1).uniform_(*self.scale).item()
            # Uniform in the logarithm, so that 3:4 is as likely as 4:3. torchvision takes it in float32.
            logs = torch.log(torch.tensor(self.ratio))
            shape = torch.exp(torch.empty(1).uniform_(float(logs[0]), float(logs[1]))).item()
            w, h = round(math.sqrt(area * shape)), round(math.sqrt(area / shape))
            if 0 < w <= width and 0 < h <= height:
                top = int(torch.randint(0, height - h + 1, (1,)).item())
                left = int(torch.randint(0, width - w + 1, (1,)).item())
                return left, top, left + w, top + h
        return self._central(width, height)

    def _central(self, width: int, height: int) -> Box:
        """The largest box of an allowed shape in the middle of the picture, for when no random one fits."""
        shape = width / height
        w = width if shape <= max(self.ratio) else round(height * max(self.ratio))
        h = height if shape >= min(self.ratio) else round(width / min(self.ratio))
        left, top = (width - w) // 2, (height - h) // 2
        return left, top, left + w, top + h


def _check_image(image: Image) -> None:
    image_class = require("PIL.Image", "preprocessing", "pillow").Image
    if not isinstance(image, image_class):
        hint = "; open a file with PIL.Image.open" if isinstance(image, str) else ""
        raise TypeError(f"image must be a PIL image; got {type(image).__name__}{hint}")
    if min(image.size) < 1:
        raise ValueError(f"image must have at least one pixel; got size {image.size}")
