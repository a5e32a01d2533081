"""Batches depend on the seed, the epoch and the place, but not on workers, processes, or where a run resumes."""

from __future__ import annotations

import gc
import multiprocessing
import pickle
import signal
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from data_files import PLAIN, digits, noise, numbered_table, numbers, picture, same, write_jsonl

from clipfast import RandomCrop
from clipfast.data import DataConfig, open_pairs


def opened(source: Path, batch_size: int = 7, seed: int = 3, rank: int = 0, world_size: int = 1, **options):
    config = DataConfig(str(source), **{"workers": 0, "min_scale": 0.3, **options})
    return open_pairs(config, PLAIN, digits, batch_size=batch_size, seed=seed, rank=rank, world_size=world_size)


@pytest.fixture(scope="module")
def table(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """40 pictures whose crops differ, and two that are missing."""
    path = numbered_table(tmp_path_factory.mktemp("table"), 40, noise)
    with path.open("a") as file:
        file.write("missing.png,1\nmissing.png,2\n")
    return path


def test_the_number_of_workers_changes_nothing(table: Path):
    alone, two = (opened(table, workers=workers) for workers in (0, 2))
    for epoch in (0, 5):
        expected, found = list(alone.epoch(epoch)), list(two.epoch(epoch))
        assert len(expected) == alone.steps == two.steps == 6
        assert all(map(same, expected, found))


@pytest.mark.parametrize("workers", [0, 2])
def test_a_resumed_epoch_goes_on_with_the_same_batches(table: Path, workers: int):
    data = opened(table, workers=workers)
    whole = list(data.epoch(2))
    begun = data.epoch(2)
    assert same(next(begun), whole[0])
    for first in (4, 0, 6):
        rest = list(opened(table, workers=workers).epoch(2, first) if first else data.epoch(2))
        assert len(rest) == len(whole) - first
        assert all(map(same, rest, whole[first:]))


def test_what_a_resumed_epoch_skips_is_not_opened(table: Path, monkeypatch: pytest.MonkeyPatch):
    read = []
    monkeypatch.setattr("clipfast.data.batches.read_picture", lambda image, transform: read.append(image) or torch.zeros(1))
    list(opened(table).epoch(0, first=5))
    assert len(read) == 7


def test_seed_and_epoch_change_order_and_crops(tmp_path: Path):
    data = opened(numbered_table(tmp_path, 12, noise), batch_size=12)
    (first,), (second,) = data.epoch(0), data.epoch(1)
    (other,) = opened(tmp_path / "pairs.csv", batch_size=12, seed=4).epoch(0)
    for batch in (second, other):
        assert numbers(batch) != numbers(first)
        assert sorted(numbers(batch)) == sorted(numbers(first))
        place = {number: i for i, number in enumerate(numbers(batch))}
        crops = batch.images[[place[number] for number in numbers(first)]]
        assert all(not torch.equal(*pair) for pair in zip(crops, first.images, strict=True))


def test_the_processes_share_each_batch(table: Path):
    """Four processes with 3 pairs each see what two with 6 see, and what one with 12 sees."""
    whole = list(opened(table, batch_size=12).epoch(1))
    for world_size in (2, 4):
        parts = [opened(table, 12 // world_size, rank=rank, world_size=world_size) for rank in range(world_size)]
        assert {part.steps for part in parts} == {len(whole)}
        for batch, *shares in zip(whole, *(part.epoch(1) for part in parts), strict=True):
            assert torch.equal(torch.cat([share.images for share in shares]), batch.images)
            assert torch.equal(torch.cat([share.tokens for share in shares]), batch.tokens)
            assert [skipped for share in shares for skipped in share.skipped] == list(batch.skipped)


def test_samples_bound_an_epoch(table: Path):
    data = opened(table, batch_size=5, samples=19)
    assert data.steps == len(list(data.epoch(0))) == 3
    seen = {number for epoch in range(30) for batch in data.epoch(epoch) for number in numbers(batch)}
    assert len(seen) == 40


def test_distinct_pairs(tmp_path: Path):
    for i in range(6):
        picture(i).save(tmp_path / f"{i}.png")
    rows = [{"image": f"{i % 6}.png", "caption": str(i % 6), "name": f"n{i % 6}"} for i in range(18)]
    table = write_jsonl(tmp_path / "t.jsonl", rows)
    data = opened(table, batch_size=3, world_size=2, rank=1, distinct="name")
    assert data.steps == 3
    both = zip(data.epoch(0), opened(table, batch_size=3, world_size=2, distinct="name").epoch(0), strict=True)
    assert all(sorted(numbers(right) + numbers(left)) == list(range(6)) for left, right in both)
    with pytest.raises(ValueError, match="got 18 pairs, enough for 0 batches of 7, none with two pairs of one 'name'; take"):
        opened(table, batch_size=7, distinct="name")


def test_the_caller_s_random_numbers_are_left_alone(table: Path):
    torch.manual_seed(0)
    expected = torch.rand(3)
    torch.manual_seed(0)
    list(opened(table).epoch(0))
    assert torch.equal(torch.rand(3), expected)


def test_the_crop_is_the_random_resized_crop_of_the_model_s_size(tmp_path: Path):
    evaluation = DataConfig("x", augment="none").training_transform(PLAIN)
    training = DataConfig("x", min_scale=0.4).training_transform(PLAIN)
    assert evaluation is PLAIN
    assert training == RandomCrop(8, PLAIN.mean, PLAIN.std, PLAIN.interpolation, scale=(0.4, 1.0))
    (batch,) = opened(numbered_table(tmp_path, 5, noise), batch_size=5, augment="none").epoch(0)
    expected = [PLAIN(noise(number)) for number in numbers(batch)]
    assert torch.equal(batch.images, torch.stack(expected))


@pytest.mark.parametrize("mode", ["CMYK", "P", "PA", "LA", "RGBA", "I;16", "1", "F"])
def test_pictures_of_every_mode_are_as_the_preprocessing_makes_them(tmp_path: Path, mode: str):
    from PIL import Image

    kind = "tiff" if mode in ("CMYK", "I;16", "F") else "png"
    image = Image.new("I;16", (20, 15), 30000) if mode == "I;16" else noise(3, 20, 15)
    image = image if mode == "I;16" else image.convert("L").convert(mode) if mode in ("LA", "PA", "F") else image.convert(mode)
    kind = "tiff" if mode == "PA" else kind
    try:
        image.save(tmp_path / f"0.{kind}")
    except OSError:
        pytest.skip(f"pillow writes no {mode}")
    table = write_jsonl(tmp_path / "t.jsonl", [{"image": f"0.{kind}", "caption": "0"}])
    (batch,) = opened(table, batch_size=1, augment="none").epoch(0)
    with Image.open(tmp_path / f"0.{kind}") as reopened:
        assert torch.equal(batch.images[0], PLAIN(reopened))


def test_a_batch_larger_than_the_data_is_refused(table: Path):
    with pytest.raises(ValueError, match=r"one batch or more; got 42 pairs, enough for 0 batches of 50; take a smaller batch$"):
        opened(table, batch_size=25, world_size=2)
    with pytest.raises(ValueError, match=r"42 pairs, enough for 6 batches of 7; samples=50 asks for 7; .* or other samples"):
        opened(table, samples=50)
    with pytest.raises(ValueError, match="samples=6 asks for 0"):
        opened(table, samples=6)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"batch_size": 0}, "batch_size must be a whole number of at least 1; got 0"),
        ({"seed": -1}, "seed must be a whole number of at least 0; got -1"),
        ({"rank": 2, "world_size": 2}, r"rank must be in \[0, 2\), the processes; got 2"),
        ({"samples": 0}, "samples must be a whole number of at least 1; got 0"),
        ({"workers": -1}, "workers must be a whole number of at least 0; got -1"),
        ({"augment": "flip"}, "augment must be one of 'crop', 'none'; got 'flip'"),
        ({"min_scale": 0.0}, r"min_scale must be a share of the picture's area, above 0 and at most 1; got 0\.0"),
        ({"templates": ("a photo",)}, r"templates must be a list of texts, one or more, with {} where the name goes; got"),
        ({"templates": "a {}"}, r"templates must be a list of texts"),
        ({"image_key": ""}, "image_key must be a non-empty text; got ''"),
    ],
)
def test_values_that_are_refused(table: Path, options: dict, message: str):
    with pytest.raises(ValueError, match=message):
        opened(table, **options)


def test_a_list_of_templates_is_taken():
    assert DataConfig("x", templates=["a {}", "the {}"]).templates == ("a {}", "the {}")


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_to_all_processes_is_the_training_s(table: Path, number: signal.Signals):
    data = opened(table, workers=2)
    expected = list(opened(table).epoch(0))
    batches = data.epoch(0)
    found = [next(batches)]
    workers = multiprocessing.active_children()
    for worker in workers:
        subprocess.run(["kill", f"-{number.value}", str(worker.pid)], check=True)  # from another process
    found += batches
    assert all(map(same, expected, found))
    del data, batches
    gc.collect()
    assert all(worker.exitcode == 0 for worker in workers)


def test_a_script_that_leaves_an_epoch_early_ends(table: Path):
    """At exit Python ends its workers by the signal that they ignore when it comes from others."""
    code = f"""if True:
        from clipfast.data import DataConfig, open_pairs
        from data_files import PLAIN, digits
        batches = open_pairs(DataConfig({str(table)!r}, workers=1), PLAIN, digits, batch_size=7, seed=0).epoch(0)
        next(batches)"""
    subprocess.run([sys.executable, "-c", code], cwd=Path(__file__).parents[1] / "support", check=True, timeout=60)


def test_the_parts_travel_to_other_processes(table: Path):
    data = opened(table)
    dataset = pickle.loads(pickle.dumps(data._loader.dataset))
    (batch,) = data.epoch(0, first=5)
    assert same(dataset[next(iter(data._keys))], batch)
