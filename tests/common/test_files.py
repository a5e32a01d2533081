"""Files are written whole or not at all."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from clipfast.common.files import write_atomically, write_json


def test_a_failed_write_leaves_the_old_file(tmp_path: Path) -> None:
    path = tmp_path / "file"
    write_atomically(path, lambda file: file.write(b"old"))

    def fail(file) -> None:
        file.write(b"new")
        raise RuntimeError("no space")

    with pytest.raises(RuntimeError, match="no space"):
        write_atomically(path, fail)
    assert path.read_bytes() == b"old"
    assert list(tmp_path.iterdir()) == [path]


def test_json_is_written_into_a_new_folder(tmp_path: Path) -> None:
    path = tmp_path / "new" / "figures.json"
    write_json(path, {"n": [1, 2]})
    assert json.loads(path.read_text()) == {"n": [1, 2]}
    assert list(path.parent.iterdir()) == [path]
