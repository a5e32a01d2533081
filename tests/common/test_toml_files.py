"""Reading TOML files: values, and errors that name the file."""

from __future__ import annotations

from pathlib import Path

import pytest

from clipfast.common.toml_files import read_toml, toml_value


def test_tables_and_values(tmp_path: Path):
    path = tmp_path / "a.toml"
    path.write_text('name = "ü"\n[table]\nlist = [1, 2.5, true]\n', "utf-8")
    assert read_toml(path) == {"name": "ü", "table": {"list": [1, 2.5, True]}}


@pytest.mark.parametrize("content", [b"a = \n", b"\xfc = 1\n"])
def test_what_is_no_toml(tmp_path: Path, content: bytes):
    (tmp_path / "a.toml").write_bytes(content)
    with pytest.raises(ValueError, match=r"a\.toml is not a TOML file: "):
        read_toml(tmp_path / "a.toml")


def test_what_cannot_be_read(tmp_path: Path):
    with pytest.raises(ValueError, match=r"nowhere\.toml cannot be read: No such file or directory"):
        read_toml(tmp_path / "nowhere.toml")


def test_single_values():
    assert (toml_value("3"), toml_value("[1, 'b']"), toml_value("true")) == (3, [1, "b"], True)
    with pytest.raises(ValueError, match="line 1"):
        toml_value("no quotes")
