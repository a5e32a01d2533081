"""The package's public names, and what is imported with each."""

from __future__ import annotations

import subprocess
import sys

import pytest

import clipfast

HEAVY = (
    "PIL",
    "ftfy",
    "regex",
    "rich",
    "typer",
    "sentencepiece",
    "torchvision",
    "matplotlib",
    "clipfast.cli",
    "clipfast.demo",
    "clipfast.models",
    "clipfast.hub",
    "clipfast.text.bpe",
)


def test_every_public_name_is_there() -> None:
    for name in clipfast.__all__:
        assert getattr(clipfast, name).__doc__, name
        assert name in dir(clipfast)
    assert set(clipfast._LAZY) <= set(clipfast.__all__)
    with pytest.raises(AttributeError, match="module 'clipfast' has no attribute 'clip'"):
        clipfast.clip  # noqa: B018


@pytest.mark.parametrize(
    ("use", "needs"),
    [
        ("clipfast.clip_loss", ()),
        ("clipfast.top_k", ()),
        ("clipfast.tokenize", ("clipfast.text.bpe",)),  # ftfy and regex at the first text
        ("clipfast.create_model", ("clipfast.models",)),
        ("clipfast.load", ("clipfast.models", "clipfast.hub")),
    ],
)
def test_a_name_loads_what_it_needs_and_no_more(use: str, needs: tuple[str, ...]) -> None:
    code = f"import sys, clipfast; {use}; print([m for m in {HEAVY} if m in sys.modules])"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == str([name for name in HEAVY if name in needs])
