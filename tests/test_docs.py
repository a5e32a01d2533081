"""What the documentation shows must run: every python block of README.md and docs/, every script of examples/.

The blocks of one file share a namespace and run in order. A block fenced as ``python no-run`` is skipped.
"""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
from peer_imports import peer

ROOT = Path(__file__).resolve().parent.parent
FENCE = re.compile(r"^```python[ \t]*\n(.*?)^```[ \t]*$", re.MULTILINE | re.DOTALL)
PAGES = [path for path in [ROOT / "README.md", *sorted(ROOT.glob("docs/**/*.md"))] if FENCE.search(path.read_text("utf-8"))]
EXAMPLES = sorted((ROOT / "examples").glob("*.py"))
PEERS = {"lightning_module.py": "pytorch_lightning"}  # what an example needs besides clipfast's own extras
SECONDS = 120  # for one example: each takes under 10 on two free cores


def blocks(page: str) -> list[str]:
    """The page's python blocks, each moved down to its own line, so that a traceback gives the page's line numbers."""
    return ["\n" * page.count("\n", 0, match.start(1)) + match.group(1) for match in FENCE.finditer(page)]


def test_blocks_are_found_and_keep_their_lines():
    page = "text\n```python\na = 1\n```\n```python no-run\nskipped\n```\n```text\nno code\n```\n```python\na += 1\n```\n"
    assert blocks(page) == ["\n\na = 1\n", "\n" * 11 + "a += 1\n"]


def test_pages_and_examples_are_there():
    assert len(PAGES) >= 5
    assert len(EXAMPLES) >= 4


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_page_runs(page: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.chdir(tmp_path)
    namespace: dict[str, object] = {"__name__": "__main__"}
    for block in blocks(page.read_text("utf-8")):
        exec(compile(block, str(page), "exec"), namespace)


@pytest.mark.parametrize("script", EXAMPLES, ids=lambda script: script.name)
def test_example_runs(script: Path, tmp_path: Path):
    path = os.pathsep.join(filter(None, [str(ROOT), os.environ.get("PYTHONPATH")]))
    command = [str(script)]
    if (needed := PEERS.get(script.name)) is not None:
        peer(needed)
        command = [str(ROOT / "tests" / "support" / "peer_imports.py"), needed, str(script)]
    done = subprocess.run(
        [sys.executable, *command],
        cwd=tmp_path,
        env={**os.environ, "PYTHONPATH": path, "OMP_NUM_THREADS": "1"},  # small models: threads would only wait for each other
        capture_output=True,
        text=True,
        timeout=SECONDS,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.strip(), "an example prints what it shows"
