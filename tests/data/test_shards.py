"""WebDataset shards: which samples are read, in which order, and which are skipped, with their shard and key."""

from __future__ import annotations

import logging
import tarfile
from pathlib import Path

import pytest
import torch
from data_files import PLAIN, digits, encoded, noise, numbers, picture, same, shown

from clipfast.data import DataConfig, NothingReadableError, open_pairs

webdataset = pytest.importorskip("webdataset", reason="needs clipfast[data]")


def write_shards(folder: Path, sizes: tuple[int, ...], draw=picture) -> str:
    """Samples numbered over all shards, with their numbers as captions."""
    number = 0
    for i, size in enumerate(sizes):
        with webdataset.TarWriter(str(folder / f"{i:02d}.tar")) as tar:
            for _ in range(size):
                tar.write({"__key__": f"{number:04d}", "png": encoded(draw(number)), "txt": f"picture {number}", "cls": 1})
                number += 1
    return f"{folder}/{{00..{len(sizes) - 1:02d}}}.tar"


def write_tar(path: Path, members: dict[str, bytes]) -> str:
    with webdataset.TarWriter(str(path), encoder=False) as tar:
        for name, data in members.items():
            key, _, ending = name.partition(".")
            tar.write({"__key__": key, ending: data})
    return str(path)


def opened(source: str, batch_size: int, samples: int, rank: int = 0, world_size: int = 1, **options):
    config = DataConfig(source, samples=samples, **{"workers": 0, "shuffle": 5, "min_scale": 0.3, **options})
    return open_pairs(config, PLAIN, digits, batch_size=batch_size, seed=0, rank=rank, world_size=world_size)


@pytest.fixture(scope="module")
def source(tmp_path_factory: pytest.TempPathFactory) -> str:
    return write_shards(tmp_path_factory.mktemp("shards"), (9, 4, 12, 5), noise)


def test_an_epoch_has_every_sample_once(tmp_path: Path):
    data = opened(write_shards(tmp_path, (9, 4, 12, 5)), 10, 30)
    found = list(data.epoch(0))
    assert all(numbers(batch) == shown(batch) for batch in found)
    order = [number for batch in found for number in numbers(batch)]
    assert sorted(order) == list(range(30))
    assert order != sorted(order)
    assert order != [number for batch in data.epoch(1) for number in numbers(batch)]


def test_without_a_buffer_the_samples_of_a_shard_keep_their_order(source: str):
    (batch,) = opened(source, 30, 30, shuffle=0).epoch(0)
    shards = [range(9), range(9, 13), range(13, 25), range(25, 30)]
    starts = sorted(numbers(batch).index(shard[0]) for shard in shards)
    assert all(numbers(batch)[numbers(batch).index(shard[0]) :][: len(shard)] == list(shard) for shard in shards)
    assert starts[0] == 0


def test_the_number_of_workers_changes_nothing(source: str):
    expected = list(opened(source, 4, 30).epoch(3))
    assert len(expected) == 7
    for workers in (1, 2):
        assert all(map(same, expected, list(opened(source, 4, 30, workers=workers).epoch(3))))


@pytest.mark.parametrize("workers", [0, 2])
def test_a_resumed_epoch_goes_on_with_the_same_batches(source: str, workers: int, monkeypatch: pytest.MonkeyPatch):
    whole = list(opened(source, 4, 30).epoch(1))
    assert all(map(same, whole[5:], list(opened(source, 4, 30, workers=workers).epoch(1, 5))))
    read = []
    monkeypatch.setattr("clipfast.data.batches.read_picture", lambda image, transform: read.append(image) or torch.zeros(1))
    list(opened(source, 4, 30).epoch(1, 5))
    assert len(read) == 8  # earlier samples are not decoded


def test_the_processes_share_the_shards(source: str):
    parts = [opened(source, 2, 24, rank, 2, shuffle=3) for rank in range(2)]
    assert [part.steps for part in parts] == [6, 6]
    for epoch in range(4):
        seen = [{number for batch in part.epoch(epoch) for number in numbers(batch)} for part in parts]
        assert not seen[0] & seen[1]
    with pytest.raises(ValueError, match="must have a shard for each of the 5 processes; got 4"):
        opened(source, 2, 24, 0, 5)


def test_pairs_come_twice_only_with_a_warning(source: str, caplog: pytest.LogCaptureFixture):
    with caplog.at_level(logging.WARNING, "clipfast"):
        list(opened(source, 10, 30).epoch(0))
        assert not caplog.messages
        found = [number for batch in opened(source, 10, 40).epoch(0) for number in numbers(batch)]
    assert caplog.messages == ["process 0 has read all 30 pairs of its 4 shards; it begins them again, as an epoch has more"]
    assert sorted(found[:30]) == list(range(30))
    assert len(found) == 40


def test_the_caller_s_random_numbers_are_left_alone(source: str):
    torch.manual_seed(0)
    expected = torch.rand(3)
    torch.manual_seed(0)
    list(opened(source, 10, 30).epoch(0))
    assert torch.equal(torch.rand(3), expected)


def test_samples_that_cannot_be_read_are_named(tmp_path: Path):
    whole = encoded(noise(0, 40, 40), "jpeg")
    path = tmp_path / "a.tar"
    with webdataset.TarWriter(str(path), encoder=False) as tar:
        tar.write({"__key__": "good", "jpg": whole, "txt": b"picture 7"})
        tar.write({"__key__": "cut", "jpg": whole[: len(whole) // 2], "txt": b"1"})
        tar.write({"__key__": "silent", "jpg": whole})
        tar.write({"__key__": "blind", "txt": b"1", "json": b"{}"})
        tar.write({"__key__": "empty", "jpg": whole, "txt": b" \n"})
        tar.write({"__key__": "latin", "jpg": whole, "txt": b"caf\xe9 1"})
        tar.write({"__key__": "webp", "webp": encoded(noise(1), "webp"), "txt": b"8"})
    (batch,) = opened(str(path), 7, 7).epoch(0)
    assert sorted(numbers(batch)) == [7, 8]
    why = dict(batch.skipped)
    assert "truncated" in why.pop(f"{path}/cut")
    assert why == {
        f"{path}/silent": "it has no caption (.txt); its members are .jpg",
        f"{path}/blind": "it has no picture (.jpg, .jpeg, .png, .webp); its members are .json, .txt",
        f"{path}/empty": "the caption is empty (in .txt)",
        f"{path}/latin": "the caption is not UTF-8 (in .txt)",
    }


def test_other_endings(tmp_path: Path):
    path = tmp_path / "a.tar"
    with webdataset.TarWriter(str(path), encoder=False) as tar:
        tar.write({"__key__": "0", "left.png": encoded(picture(1)), "right.png": encoded(picture(2)), "text": b"9"})
    (batch,) = opened(str(path), 1, 1, image_key="right.png", caption_key="text").epoch(0)
    assert shown(batch) == [2]
    assert numbers(batch) == [9]


@pytest.mark.parametrize(
    ("cut", "kept", "reason"),
    [(0, 3, "it has no end mark"), (100, 3, "it has no end mark"), (600, 2, "")],
)
def test_a_shard_that_was_cut_off_ends_there(tmp_path: Path, cut: int, kept: int, reason: str):
    """Cut before the fourth sample, in the header of its first member, and in its data; then nothing tells that the third
    sample is complete."""
    source = write_shards(tmp_path, (6, 6))
    path = tmp_path / "00.tar"
    with tarfile.open(path) as tar:
        members = tar.getmembers()
    path.write_bytes(path.read_bytes()[: members[9].offset + cut])
    (batch,) = opened(source, kept + 7, kept + 7, shuffle=0).epoch(0)
    assert sorted(numbers(batch)) == [*range(kept), *range(6, 12)]
    ((where, why),) = batch.skipped
    assert where == str(path)
    assert why.startswith(f"the rest of the shard cannot be read: {reason}")


def test_shards_that_are_refused(tmp_path: Path):
    source = write_shards(tmp_path, (3,))
    with pytest.raises(ValueError, match=r"samples must be given for tar shards, as the number of pairs in an epoch; got None"):
        opened(source, 1, None)  # type: ignore[arg-type]
    with pytest.raises(
        ValueError, match=r"distinct must be left out for .*; got 'txt'; the values in tar shards are not known"
    ):
        opened(source, 1, 3, distinct="txt")
    with pytest.raises(ValueError, match=r"root must be left out for .*; got 'x'; pictures are inside the shards"):
        opened(source, 1, 3, root="x")
    with pytest.raises(ValueError, match="samples must be at least 4, a batch of all processes; got 3"):
        opened(source, 4, 3)
    with pytest.raises(FileNotFoundError, match=r"there is no shard .*01\.tar"):
        opened(f"{tmp_path}/{{00..01}}.tar", 1, 3)
    (tmp_path / "01.tar").write_text("no tar")
    with pytest.raises(ValueError, match=r"a shard must be a tar file; got .*01\.tar"):
        opened(f"{tmp_path}/{{00..01}}.tar", 1, 3)
    with tarfile.open(tmp_path / "02.tar", "w"):
        pass
    with pytest.raises(NothingReadableError, match=r"02\.tar: there is no sample in these shards"):
        list(opened(f"{tmp_path}/02.tar", 1, 3).epoch(0))
