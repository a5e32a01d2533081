"""Named pictures: Google's Material icons, each in four styles, drawn from the fonts in the PyPI package iconipy."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache
from importlib.util import find_spec
from pathlib import Path

import numpy as np
import torch

from clipfast.common.extras import require

FOLDERS = {
    "filled": "material_icons_regular",
    "outlined": "material_icons_outlined_regular",
    "rounded": "material_icons_round_regular",
    "sharp": "material_icons_sharp_regular",
}
HELD_OUT = "sharp"
IMAGE_SIZE = 24
TRAINING_STYLES = tuple(style for style in FOLDERS if style != HELD_OUT)


@dataclass(frozen=True)
class Icons:
    """``images[style]`` is (names, size, size) uint8, white on black, in the order of ``names``."""

    names: tuple[str, ...]
    images: dict[str, np.ndarray]


def load_icons(count: int | None = None, size: int = IMAGE_SIZE, seed: int = 0) -> Icons:
    """Draw ``count`` icons (None: all of them), chosen by ``seed``, ``size`` pixels wide and high.

    No two are alike in any style, and no held-out picture is also a training picture.
    """
    names, pictures, kept = _drawn(size)
    if count is not None:
        if not 2 <= count <= len(kept):
            raise ValueError(f"the number of names must be between 2 and {len(kept)}; got {count}")
        order = torch.randperm(len(kept), generator=torch.Generator().manual_seed(seed)).tolist()
        kept = sorted(kept[i] for i in order[:count])
    images = {style: drawn[kept] for style, drawn in pictures.items()}
    return Icons(tuple(names[i].replace("_", " ") for i in kept), images)


@cache
def _drawn(size: int) -> tuple[list[str], dict[str, np.ndarray], list[int]]:
    """All names, their pictures by style, and the positions of those that are usable."""
    codes = {style: _codepoints(style) for style in FOLDERS}
    # A name such as "turn_sharp_left" would teach the text tower another meaning of the held-out style's word.
    names = sorted(name for name in set.intersection(*map(set, codes.values())) if not set(FOLDERS) & set(name.split("_")))
    pictures = {style: _draw(style, [codes[style][name] for name in names], size) for style in FOLDERS}
    return names, pictures, _usable(pictures, len(names))


def icon_folder() -> Path:
    """The folder of iconipy's files, found without running its code, which imports window toolkits that may be absent."""
    spec = find_spec("iconipy")
    if spec is None or not spec.submodule_search_locations:
        raise ModuleNotFoundError("the demo needs iconipy, which is not installed: pip install 'clipfast[demo]'")
    return Path(next(iter(spec.submodule_search_locations))) / "assets"


def _font_folder(style: str) -> Path:
    return icon_folder() / FOLDERS[style]


def _codepoints(style: str) -> dict[str, str]:
    """Icon name -> its character in the style's font."""
    (table,) = _font_folder(style).glob("*.codepoints")
    pairs = (line.split() for line in table.read_text(encoding="utf-8").splitlines() if line)
    return {name: chr(int(code, 16)) for name, code in pairs}


def _draw(style: str, characters: list[str], size: int) -> np.ndarray:
    """(icons, size, size) uint8. A character fills a square whose bottom left corner is the start of its baseline."""
    image, image_draw, image_font = (
        require(f"PIL.{part}", "the demo", "pillow", "demo") for part in ("Image", "ImageDraw", "ImageFont")
    )
    (file,) = (path for path in _font_folder(style).iterdir() if path.suffix in {".ttf", ".otf"})
    font = image_font.truetype(str(file), size)
    pictures = np.empty((len(characters), size, size), np.uint8)
    for i, character in enumerate(characters):
        canvas = image.new("L", (size, size))
        image_draw.Draw(canvas).text((0, size), character, fill=255, font=font, anchor="ls")
        pictures[i] = canvas
    return pictures


def _usable(pictures: dict[str, np.ndarray], count: int) -> list[int]:
    """The icons that look like no earlier one and whose held-out picture is not a training picture.

    Several names may share a picture, and no model could tell which is meant; a third of the icons look alike in two styles.
    """
    training = {drawn.tobytes() for style in TRAINING_STYLES for drawn in pictures[style]}
    seen: set[tuple[str, bytes]] = set()
    kept = []
    for i in range(count):
        looks = {(style, drawn[i].tobytes()) for style, drawn in pictures.items()}
        if not looks & seen and pictures[HELD_OUT][i].tobytes() not in training:
            kept.append(i)
        seen |= looks
    return kept
