"""A folder with one folder for each class."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from data_files import PLAIN, picture, shown

from clipfast.data import DataConfig, open_pairs
from clipfast.data.class_folders import ClassFolders


def write_classes(folder: Path, sizes: dict[str, int]) -> Path:
    """Numbered pictures, counted over all classes in the order of their names."""
    number = 0
    for name, size in sorted(sizes.items()):
        (folder / name / "below").mkdir(parents=True)
        for i in range(size):
            picture(number).save(folder / name / ("below" if i % 2 else ".") / f"{number:03d}.png")
            number += 1
        (folder / name / "notes.txt").write_text("no picture")
    (folder / ".cache").mkdir()
    (folder / "README.md").write_text("no class")
    return folder


def letters(captions: list[str]) -> torch.Tensor:
    return torch.tensor([[ord(letter) for letter in caption.ljust(30)] for caption in captions])


def captions(batch) -> list[str]:
    return ["".join(map(chr, row)).rstrip() for row in batch.tokens.tolist()]


def test_captions_are_templates_with_the_class(tmp_path: Path):
    source = write_classes(tmp_path, {"cat": 3, "wild_dog": 4, "owl": 1})
    config = DataConfig(str(source), templates=("a {}", "the {}"), augment="none", workers=0)
    data = open_pairs(config, PLAIN, letters, batch_size=8, seed=0)
    seen = set()
    for epoch in range(5):
        (batch,) = data.epoch(epoch)
        for number, caption in zip(shown(batch), captions(batch), strict=True):
            article, _, name = caption.partition(" ")
            assert name == ("cat" if number < 3 else "owl" if number < 4 else "wild dog")
            seen.add((number, article))
    assert len(seen) > 12  # of 16: the templates change from epoch to epoch


def test_distinct_classes(tmp_path: Path):
    source = write_classes(tmp_path, {"a": 4, "b": 4, "c": 4, "d": 2})
    config = DataConfig(str(source), templates=("{}",), workers=0, distinct="class")
    data = open_pairs(config, PLAIN, letters, batch_size=3, seed=0)
    assert data.steps == 4
    assert all(len(set(captions(batch))) == 3 for epoch in range(5) for batch in data.epoch(epoch))
    with pytest.raises(ValueError, match="distinct must be 'class' for class folders; got 'name'"):
        open_pairs(DataConfig(str(source), distinct="name"), PLAIN, letters, batch_size=3, seed=0)


def test_records_name_their_files(tmp_path: Path):
    records = ClassFolders(DataConfig(str(write_classes(tmp_path, {"a": 1, "b_c": 2}))))
    assert [records.where(i) for i in range(3)] == [
        str(tmp_path / path) for path in ("a/000.png", "b_c/001.png", "b_c/below/002.png")
    ]
    assert records.labels() == ["a", "b c"]
    assert records.groups("class").tolist() == [0, 1, 1]


def test_a_file_that_is_not_a_picture_is_named(tmp_path: Path):
    write_classes(tmp_path, {"a": 2})
    (tmp_path / "a" / "bad.png").write_text("no picture")
    config = DataConfig(str(tmp_path), augment="none", workers=0)
    (batch,) = open_pairs(config, PLAIN, letters, batch_size=3, seed=0).epoch(0)
    bad = str(tmp_path / "a" / "bad.png")
    assert sorted(shown(batch)) == [0, 1]
    assert batch.skipped == ((bad, "not a picture in a format that pillow reads"),)


def test_folders_that_are_refused(tmp_path: Path):
    with pytest.raises(ValueError, match="must have a folder of pictures for each class; got no folders"):
        ClassFolders(DataConfig(str(tmp_path)))
    write_classes(tmp_path, {"a_b": 1})
    with pytest.raises(ValueError, match=r"caption_key must be left out for .*; got 'label'; class folders have no columns"):
        ClassFolders(DataConfig(str(tmp_path), caption_key="label"))
    (tmp_path / "empty").mkdir()
    with pytest.raises(ValueError, match=r"there are no pictures in the folder .*empty"):
        ClassFolders(DataConfig(str(tmp_path)))
    (tmp_path / "a b").mkdir()
    with pytest.raises(ValueError, match="must have one folder for each class, where _ means a space; got several for a b"):
        ClassFolders(DataConfig(str(tmp_path)))


def test_a_folder_may_be_called_as_a_tar_file(tmp_path: Path):
    source = write_classes(tmp_path / "data.tar", {"a": 2})
    config = DataConfig(str(source), workers=0)
    assert open_pairs(config, PLAIN, letters, batch_size=2, seed=0).steps == 1
