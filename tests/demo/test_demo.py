"""The demo: icons, their files, its configuration, and a tiny run from end to end."""

from __future__ import annotations

import csv
import sys
from pathlib import Path

import numpy as np
import pytest
import torch

pytest.importorskip("PIL", reason="needs clipfast[demo]")
pytest.importorskip("matplotlib", reason="needs clipfast[demo]")
pytest.importorskip("rich", reason="needs clipfast[demo]")
pytest.importorskip("ftfy", reason="needs clipfast[demo]")
pytest.importorskip("regex", reason="needs clipfast[demo]")

from PIL import Image

import clipfast
from clipfast.demo import DemoResult, run
from clipfast.demo import icons as icons_module
from clipfast.demo.dataset import caption, write_dataset
from clipfast.demo.demo_config import write_config
from clipfast.demo.demo_run import check_installed
from clipfast.demo.icons import FOLDERS, HELD_OUT, TRAINING_STYLES, Icons, load_icons
from clipfast.models.checkpoints import read_state_dict
from clipfast.training.records.run_log import read_log
from clipfast.training.run.engine import train
from clipfast.training.settings.toml_and_flags import configured

pytestmark = pytest.mark.usefixtures("one_thread")


@pytest.fixture(scope="module")
def icons() -> Icons:
    try:
        return load_icons(37, 24)
    except ImportError as error:
        pytest.skip(str(error))


@pytest.fixture(scope="module")
def trained(icons: Icons, tmp_path_factory: pytest.TempPathFactory) -> DemoResult:
    torch.set_num_threads(1)
    return run(tmp_path_factory.mktemp("demo") / "new", names=12, epochs=25, seed=1)


def test_icons_are_named_drawn_and_distinct(icons: Icons) -> None:
    assert len(set(icons.names)) == 37
    assert set(icons.images) == set(FOLDERS)
    for pictures in icons.images.values():
        assert pictures.shape == (37, 24, 24)
        assert pictures.dtype == np.uint8
        assert pictures.max(axis=(1, 2)).min() > 127
        assert len(np.unique(pictures.reshape(37, -1), axis=0)) == 37


def test_no_held_out_picture_is_trained_on(icons: Icons) -> None:
    training = {drawn.tobytes() for style in TRAINING_STYLES for drawn in icons.images[style]}
    assert HELD_OUT not in TRAINING_STYLES
    assert not {drawn.tobytes() for drawn in icons.images[HELD_OUT]} & training


def test_no_name_has_a_style_in_it() -> None:
    assert not {word for name in load_icons().names for word in name.split()} & set(FOLDERS)


def test_the_seed_chooses_the_names(icons: Icons) -> None:
    assert load_icons(37, 24).names == icons.names
    assert load_icons(37, 24, seed=1).names != icons.names
    with pytest.raises(ValueError, match=r"the number of names must be between 2 and 1[0-9]{3}; got 100000"):
        load_icons(100_000)


def test_captions() -> None:
    assert [caption("add", style) for style in (None, "sharp", "outlined")] == [
        "an icon of add",
        "a sharp icon of add",
        "an outlined icon of add",
    ]


def test_the_files_hold_the_icons_and_nothing_of_the_held_out_style(icons: Icons, tmp_path: Path) -> None:
    write_dataset(tmp_path, icons)
    with (tmp_path / "pairs.csv").open(newline="") as file:
        pairs = list(csv.DictReader(file))
    assert len(pairs) == 37 * len(TRAINING_STYLES) * 2
    assert not any(HELD_OUT in pair["caption"] or HELD_OUT in pair["image"] for pair in pairs)
    with (tmp_path / "held_out.csv").open(newline="") as file:
        test = list(csv.DictReader(file))
    assert [row["name"] for row in test] == list(icons.names)
    for row in (*pairs[::7], *test):
        style = Path(row["image"]).parent.name
        drawn = icons.images[style][icons.names.index(row["name"])]
        assert np.array_equal(np.asarray(Image.open(tmp_path / row["image"])), drawn)
        assert row.get("caption", caption(row["name"])) in (caption(row["name"]), caption(row["name"], style))


def test_the_configuration_is_the_training_command_s(tmp_path: Path) -> None:
    folder = tmp_path / 'a "name" with é'
    folder.mkdir()
    config = write_config(folder, names=500, epochs=50, seed=3)
    assert Path(config.output) == folder
    assert (config.batch_size, config.epochs, config.seed) == (250, 50, 3)
    assert config.data.distinct == "name"
    assert config.evaluation.zero_shot is not None
    assert config.evaluation.zero_shot.templates == ("a sharp icon of {}",)
    assert config.evaluation.every_steps == 60
    assert write_config(folder, names=12, epochs=1, seed=0).batch_size == 12


def test_run_writes_its_files_and_the_training_command_does_the_same(tmp_path: Path, capsys) -> None:
    result = run(tmp_path / "new", names=12, epochs=1, seed=0)
    written = {result.model, result.curve, result.predictions}
    assert all(path.parent == tmp_path / "new" and path.stat().st_size > 1000 for path in written)
    assert 0 <= result.top1 <= result.top5 <= 1
    said = capsys.readouterr().out
    assert all(str(path) in said for path in written)
    by_hand = train(configured([str(tmp_path / "new" / "demo.toml"), "--output", str(tmp_path / "by_hand")]))
    assert by_hand.result is not None
    weights, others = (read_state_dict(path) for path in (result.model, by_hand.result))
    assert all(torch.equal(weights[name], others[name]) for name in weights)
    again = run(tmp_path / "new", names=12, epochs=1, seed=0)  # in place of the first
    assert (again.top1, again.top5) == (result.top1, result.top5)
    assert [event["event"] for event in read_log(tmp_path / "new" / "log.jsonl")].count("started") == 1


def test_training_learns_a_few_names(trained: DemoResult) -> None:
    assert trained.top1 >= 0.75
    assert trained.top5 >= trained.top1


def test_the_model_that_is_written_has_the_accuracy_that_was_reported(trained: DemoResult) -> None:
    model, preprocess = clipfast.load(trained.model, "cpu")
    names = load_icons(12, seed=1).names
    classifier = clipfast.ZeroShotClassifier(model, names, "a sharp icon of {}")
    folder = trained.model.parent / "pictures" / HELD_OUT
    images = torch.stack([preprocess(Image.open(folder / f"{name.replace(' ', '_')}.png")) for name in names])
    hits = classifier.predict(images) == torch.arange(12)
    assert hits.float().mean().item() == pytest.approx(trained.top1)


def test_run_refuses_no_epochs_and_no_threads(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="threads must be a whole number of at least 1; got 0"):
        run(tmp_path, threads=0)
    with pytest.raises(ValueError, match="epochs must be a whole number of at least 1; got 0"):
        run(tmp_path, epochs=0)


def test_a_run_that_is_no_demo_is_left_alone(tmp_path: Path) -> None:
    (tmp_path / "checkpoints").mkdir()
    (tmp_path / "checkpoints" / "step-00000010.pt").write_bytes(b"somebody's")
    with pytest.raises(ValueError, match="has checkpoints of a run already"):
        run(tmp_path, names=12, epochs=1)
    assert (tmp_path / "checkpoints" / "step-00000010.pt").read_bytes() == b"somebody's"


def test_missing_packages_are_named(monkeypatch) -> None:
    monkeypatch.setitem(sys.modules, "matplotlib.figure", None)
    with pytest.raises(ImportError, match=r"the demo needs matplotlib, which is not installed: .*'clipfast\[demo\]'"):
        check_installed()
    monkeypatch.setattr(icons_module, "find_spec", lambda name: None)
    with pytest.raises(ImportError, match=r"the demo needs iconipy, which is not installed: .*'clipfast\[demo\]'"):
        check_installed()
