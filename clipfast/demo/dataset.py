"""The icons as files: PNG pictures, a table of pairs to train on, and a table of names to test with."""

from __future__ import annotations

import csv
import io
from collections.abc import Iterable, Sequence
from pathlib import Path

from clipfast.common.extras import require
from clipfast.common.files import write_atomically
from clipfast.demo.icons import HELD_OUT, TRAINING_STYLES, Icons

PAIRS, TEST = "pairs.csv", "held_out.csv"


def caption(name: str, style: str | None = None) -> str:
    """``a sharp icon of home``, or ``an icon of home`` without a style."""
    if style is None:
        return f"an icon of {name}"
    return f"{'an' if style[0] in 'aeiou' else 'a'} {style} icon of {name}"


def write_dataset(folder: Path, icons: Icons) -> None:
    """Write ``pictures/`` and two tables into ``folder``.

    ``pairs.csv`` (image, caption, name) has each picture of the training styles twice, once with each of its captions;
    ``held_out.csv`` (image, name) has the pictures of the held-out style.
    """
    for style in icons.images:
        _write_pictures(folder, icons, style)
    rows = [
        (picture_path(name, style), text, name)
        for name in icons.names
        for style in TRAINING_STYLES
        for text in (caption(name), caption(name, style))
    ]
    _write_csv(folder / PAIRS, ("image", "caption", "name"), rows)
    _write_csv(folder / TEST, ("image", "name"), [(picture_path(name, HELD_OUT), name) for name in icons.names])


def picture_path(name: str, style: str) -> str:
    """Path of a picture within the folder."""
    return f"pictures/{style}/{name.replace(' ', '_')}.png"


def _write_pictures(folder: Path, icons: Icons, style: str) -> None:
    image = require("PIL.Image", "the demo", "pillow", "demo")
    (folder / "pictures" / style).mkdir(parents=True, exist_ok=True)
    for name, pixels in zip(icons.names, icons.images[style], strict=True):
        image.fromarray(pixels).save(folder / picture_path(name, style))


def _write_csv(path: Path, header: Sequence[str], rows: Iterable[Sequence[str]]) -> None:
    text = io.StringIO(newline="")
    writer = csv.writer(text)
    writer.writerow(header)
    writer.writerows(rows)
    write_atomically(path, lambda file: file.write(text.getvalue().encode()))
