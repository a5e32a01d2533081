"""The demo: icons, captions, batches, files, and a tiny run from end to end."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest
import torch

pytest.importorskip("PIL", reason="needs clipfast[demo]")
pytest.importorskip("matplotlib", reason="needs clipfast[demo]")
pytest.importorskip("rich", reason="needs clipfast[demo]")

from clipfast.demo import extras, load_demo, run
from clipfast.demo.captions import PAD, START, Vocabulary, caption
from clipfast.demo.icons import FOLDERS, HELD_OUT, TRAINING_STYLES, Icons, load_icons, pixels
from clipfast.demo.train import Pairs, Recipe, build_model, move
from clipfast.files import write_atomically

pytestmark = pytest.mark.usefixtures("one_thread")


@pytest.fixture(scope="module")
def icons() -> Icons:
    try:
        return load_icons(37, 24)
    except ImportError as error:
        pytest.skip(str(error))


def vocabulary_of(icons: Icons) -> Vocabulary:
    return Vocabulary.of(caption(name, style) for name in icons.names for style in (*FOLDERS, None))


def test_icons_are_named_drawn_and_distinct(icons: Icons) -> None:
    assert len(set(icons.names)) == 37
    assert set(icons.images) == set(FOLDERS)
    for pictures in icons.images.values():
        assert pictures.shape == (37, 24, 24)
        assert pictures.dtype == torch.float32
        assert pictures.amin() >= 0
        assert pictures.amax(dim=(1, 2)).min() > 0.5
        assert len(pictures.flatten(1).unique(dim=0)) == 37


def test_no_held_out_picture_is_trained_on(icons: Icons) -> None:
    training = torch.cat([icons.images[style] for style in TRAINING_STYLES]).flatten(1)
    assert HELD_OUT not in TRAINING_STYLES
    assert (torch.cdist(icons.images[HELD_OUT].flatten(1), training) > 0).all()


def test_no_name_has_a_style_in_it() -> None:
    assert not {word for name in load_icons().names for word in name.split()} & set(FOLDERS)


def test_the_seed_chooses_the_names(icons: Icons) -> None:
    assert load_icons(37, 24).names == icons.names
    assert load_icons(37, 24, seed=1).names != icons.names
    with pytest.raises(ValueError, match=r"must be between 2 and 1[0-9]{3}, but is 100000"):
        load_icons(100_000)


def test_vocabulary_ends_with_the_largest_id() -> None:
    vocabulary = Vocabulary.of([caption("home work"), caption("add", "outlined"), caption("add", "sharp")])
    assert vocabulary.words == ("a", "add", "an", "home", "icon", "of", "outlined", "sharp", "work")
    rows = vocabulary.encode(["an icon of home work", "an outlined icon of add", "home"])
    assert rows.shape == (3, 7)
    assert rows.dtype == torch.int64
    assert rows[2].tolist() == [START, 5, vocabulary.end, PAD, PAD, PAD, PAD]
    assert rows.amax(1).tolist() == [len(vocabulary) - 1] * 3
    assert [vocabulary.words[i - 2] for i in rows[1, 1:6].tolist()] == ["an", "outlined", "icon", "of", "add"]


def test_vocabulary_refuses_what_it_cannot_encode() -> None:
    vocabulary = Vocabulary.of(["an icon"])
    with pytest.raises(ValueError, match=r"'a red icon' has words .*: a, red"):
        vocabulary.encode(["a red icon"])
    with pytest.raises(ValueError, match="too long: 5 tokens with start and end, of at most 4"):
        vocabulary.encode(["an icon icon"])


def test_no_name_comes_twice_in_a_batch(icons: Icons) -> None:
    pairs = Pairs(icons, vocabulary_of(icons), Recipe(batch_size=12, styled_captions=0.0), seed=0)
    epoch = []
    for _ in range(3):
        images, texts = pairs.draw()
        assert images.shape == (12, 1, 24, 24)
        assert len(texts.unique(dim=0)) == 12
        epoch.append(texts)
    assert len(torch.cat(epoch).unique(dim=0)) == 36


def test_batches_pair_pictures_with_their_captions(icons: Icons) -> None:
    recipe = Recipe(batch_size=37, styled_captions=1.0, shift=0.0, zoom=0.0, turn=0.0)
    vocabulary = vocabulary_of(icons)
    images, texts = Pairs(icons, vocabulary, recipe, seed=3).draw()
    for image, text in zip(images, texts, strict=True):
        words = [vocabulary.words[i - 2] for i in text.tolist() if START < i < vocabulary.end]
        style, name = words[1], " ".join(words[4:])
        drawn = icons.images[style][icons.names.index(name)]
        torch.testing.assert_close(image, pixels(drawn[None])[0], atol=1e-5, rtol=0)


def test_move_shifts_by_pixels() -> None:
    random = torch.Generator().manual_seed(0)
    images = torch.zeros(200, 9, 9)
    images[:, 4, 4] = 1.0
    moved = move(images, Recipe(shift=2.0, zoom=0.0, turn=0.0), random)
    centres = (moved.sum(1) * torch.arange(9)).sum(1) - 4
    assert 1.8 < centres.abs().max() <= 2.0 + 1e-4
    torch.testing.assert_close(moved.sum((1, 2)), torch.ones(200))


def test_run_writes_its_files_and_the_checkpoint_gives_the_same_features(icons, tmp_path: Path, capsys) -> None:
    result = run(tmp_path / "new", names=37, steps=3, seed=0)
    written = {result.checkpoint, result.curve, result.predictions}
    assert set((tmp_path / "new").iterdir()) == written
    assert all(path.stat().st_size > 1000 for path in written)
    assert 0 <= result.top1 <= result.top5 <= 1
    said = capsys.readouterr().out
    assert all(str(path) in said for path in written)

    contents = torch.load(result.checkpoint, weights_only=True)
    assert set(contents) == {"config", "state_dict", "vocabulary", "names"}
    again = run(tmp_path / "again", names=37, steps=3, seed=0)
    first, second = load_demo(result.checkpoint), load_demo(again.checkpoint)
    assert first.names == icons.names
    assert first.vocabulary == second.vocabulary == vocabulary_of(icons)
    images = pixels(icons.images[HELD_OUT])
    texts = first.vocabulary.encode(caption(name, HELD_OUT) for name in first.names)
    assert torch.equal(first.model.encode_image(images), second.model.encode_image(images))
    assert torch.equal(first.model.encode_text(texts), second.model.encode_text(texts))
    hits = first.model(images, texts)[0].argmax(1) == torch.arange(37)
    assert hits.float().mean().item() == pytest.approx(result.top1)


def test_training_learns_a_few_names(icons, tmp_path: Path) -> None:
    result = run(tmp_path, names=12, steps=100, seed=1)
    assert result.top1 >= 0.75
    assert result.top5 >= result.top1


def test_the_caller_s_random_numbers_are_left_alone(icons) -> None:
    torch.manual_seed(5)
    expected = torch.rand(3)
    torch.manual_seed(5)
    build_model(24, vocabulary_of(icons), seed=0)
    assert torch.equal(torch.rand(3), expected)


def test_run_refuses_no_steps_and_no_threads(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="at least 1 thread, but got 0"):
        run(tmp_path, threads=0)
    with pytest.raises(ValueError, match="at least 1 step, but got 0"):
        run(tmp_path, steps=0)


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


def test_missing_packages_are_named(monkeypatch) -> None:
    advice = r"the demo needs {}, which is not installed: pip install 'clipfast\[demo\]'"
    monkeypatch.setitem(sys.modules, "matplotlib.figure", None)
    with pytest.raises(ImportError, match=advice.format("matplotlib")):
        extras.require("matplotlib.figure")
    monkeypatch.setitem(sys.modules, "PIL.Image", None)
    with pytest.raises(ImportError, match=advice.format("pillow")):
        extras.require("PIL.Image", "pillow")
    monkeypatch.setattr(extras, "find_spec", lambda name: None)
    with pytest.raises(ImportError, match=advice.format("iconipy")):
        extras.check_installed()


def test_importing_the_library_imports_neither_models_nor_demo() -> None:
    code = "import sys, clipfast; print([m for m in sys.modules if m.startswith(('clipfast.models', 'clipfast.demo'))])"
    found = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert found.stdout.strip() == "[]"
