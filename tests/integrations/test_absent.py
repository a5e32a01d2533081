"""Without its project, an integration's import or command says what to install."""

from __future__ import annotations

import importlib
import sys

import pytest

from clipfast.integrations import open_clip


@pytest.mark.parametrize(
    ("module", "project"), [("sentence_transformers", "sentence-transformers"), ("transformers", "transformers")]
)
def test_imports(monkeypatch: pytest.MonkeyPatch, module: str, project: str):
    monkeypatch.setitem(sys.modules, module, None)
    for part in [name for name in sys.modules if name.startswith(f"{module}.")]:  # another test may have loaded it
        monkeypatch.delitem(sys.modules, part)
    monkeypatch.delitem(sys.modules, f"clipfast.integrations.{module}", raising=False)
    with pytest.raises(ImportError, match=f"needs {project} . or newer: pip install '{project}"):
        importlib.import_module(f"clipfast.integrations.{module}")


def test_the_command(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setitem(sys.modules, "open_clip_train.main", None)
    with pytest.raises(SystemExit, match=r"error: open_clip's trainer needs open_clip_torch\[training\]"):
        open_clip.main(["--model", "ViT-B-32"])
