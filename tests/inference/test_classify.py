"""``python -m clipfast classify`` with a small checkpoint: what it prints, writes and refuses."""

from __future__ import annotations

import csv
from pathlib import Path

import pytest
import torch
from pieces import T5_IDS, train
from typer.testing import CliRunner

import clipfast
from clipfast import models
from clipfast.cli.app import app
from clipfast.cli.terminal import console
from clipfast.images.pictures import find_pictures

Image = pytest.importorskip("PIL.Image")
LABELS = ["red [bold]", "green", "blue"]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Three pictures, a damaged one, a text, and a checkpoint of a random model."""
    folder = tmp_path_factory.mktemp("pictures")
    torch.manual_seed(0)
    text = models.TextConfig(77, 49408, 64, 1, 1)
    model = models.create_model(models.ClipConfig(32, models.VisionConfig(16, 8, 64, 1, 1), text))
    with torch.no_grad():
        model.token_embedding.weight.mul_(50)  # so that the labels' probabilities differ
    torch.save(model.state_dict(), folder / "model.pt")
    pictures = folder / "some"
    (pictures / "deep").mkdir(parents=True)
    for name, colour in (("red.png", (250, 0, 0)), ("deep/green.JPG", (0, 250, 0)), ("blue.png", (0, 0, 250))):
        Image.new("RGB", (40, 30), colour).save(pictures / name)
    whole = (pictures / "red.png").read_bytes()
    (folder / "cut.png").write_bytes(whole[:60])
    (folder / "text.png").write_text("no picture")
    (pictures / "notes.txt").write_text("no picture either")
    return folder


def run(folder: Path, *arguments: object):
    command = ["classify", *map(str, arguments), "--model", str(folder / "model.pt"), "--device", "cpu"]
    return CliRunner(env={"COLUMNS": "300"}).invoke(app, command)


def expected(folder: Path, templates: list[str], k: int) -> dict[str, list[tuple[str, float]]]:
    model, preprocess = clipfast.load(folder / "model.pt", "cpu")
    classifier = clipfast.ZeroShotClassifier(model, LABELS, templates)
    found = {}
    for path in find_pictures([folder / "some"]):
        values, places = classifier.top_k(preprocess(Image.open(path))[None], k)
        found[str(path)] = [(LABELS[i], p) for p, i in zip(values[0].tolist(), places[0].tolist(), strict=True)]
    return found


def test_folders_and_files_are_classified(folder: Path, tmp_path: Path) -> None:
    labels, templates, table = tmp_path / "labels", tmp_path / "templates", tmp_path / "new" / "out.csv"
    labels.write_text("\ufeff" + "\n".join(LABELS) + "\n\n", "utf-8")
    templates.write_text("a photo of {}\n{}\n")
    options = ("--labels-file", labels, "--templates", templates, "--csv", table, "--top-k", 9, "--batch-size", 2)
    done = run(folder, folder / "some", folder / "cut.png", folder / "text.png", folder / "none.png", *options)
    assert done.exit_code == 0, done.output
    assert f"results: {table}" in done.output
    for name, reason in (("cut", ""), ("text", "not a picture in a format that pillow reads"), ("none", "No such file")):
        assert f"could not read {folder / name}.png: {reason}" in done.output
    assert "3 of 6 pictures could not be read" in done.output
    rows = list(csv.DictReader(table.open(encoding="utf-8", newline="")))
    right = expected(folder, ["a photo of {}", "{}"], 3)
    read = [row for row in rows if not row["error"]]
    assert [(row["image"], row["label"]) for row in read] == [
        (path, label) for path, best in right.items() for label, _ in best
    ]
    assert [row["rank"] for row in read] == ["1", "2", "3"] * 3
    for row, probability in zip(read, [p for best in right.values() for _, p in best], strict=True):
        assert float(row["probability"]) == pytest.approx(probability, rel=1e-4)
    assert [(row["image"], row["label"]) for row in rows if row["error"]] == [
        (str(folder / f"{name}.png"), "") for name in ("cut", "text", "none")
    ]
    assert [path.name for path in table.parent.iterdir()] == ["out.csv"]


def test_a_long_path_is_folded_and_not_cut_off(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(console, "width", 50)
    lines = run(folder, folder / "some", "--labels", "red").output.splitlines()
    cells = [line.split("│")[1].strip() for line in lines if "│" in line]
    assert "".join(cells) == "".join(expected(folder, ["a photo of a {}."], 1))


def test_results_are_printed_without_a_file(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(console, "width", 400)
    done = run(folder, folder / "some", "--labels", ", ".join(LABELS))
    assert done.exit_code == 0, done.output
    for path, best in expected(folder, ["a photo of a {}."], 1).items():
        line = next(line for line in done.output.splitlines() if path in line)
        assert best[0][0] in line  # brackets in a label are not taken for markup
        assert f"{best[0][1]:.4f}" in line


def test_siglip_with_its_tokenizer(folder: Path, tmp_path: Path) -> None:
    pieces = train(tmp_path, **T5_IDS)
    torch.manual_seed(0)
    siglip = models.create_model("SigLIP-tiny").eval()
    models.save_checkpoint(siglip, tmp_path / "siglip.pt")
    options = ("--architecture", "SigLIP-tiny", "--sentencepiece", pieces, "--labels", "cat,dog", "--csv", tmp_path / "out.csv")
    arguments = map(str, (folder / "some", "--model", tmp_path / "siglip.pt", "--device", "cpu", *options))
    done = CliRunner(env={"COLUMNS": "300"}).invoke(app, ["classify", *arguments])
    assert done.exit_code == 0, done.output
    tokenizer = clipfast.SentencePieceTokenizer(pieces, context_length=32)
    pictures = torch.stack([clipfast.Preprocess.siglip(32)(Image.open(path)) for path in find_pictures([folder / "some"])])
    with torch.no_grad():
        best = siglip(pictures, tokenizer(["a photo of a cat", "a photo of a dog"]))[0].sigmoid().max(1).values
    rows = list(csv.DictReader((tmp_path / "out.csv").open(encoding="utf-8", newline="")))
    assert [float(row["probability"]) for row in rows] == pytest.approx(best.tolist(), rel=1e-4)


def test_the_status_is_1_only_if_nothing_could_be_read(folder: Path) -> None:
    done = run(folder, folder / "cut.png", folder / "text.png", "--labels", "a,b")
    assert done.exit_code == 1
    assert "2 of 2 pictures could not be read" in done.output
    assert run(folder, folder / "cut.png", folder / "some" / "red.png", "--labels", "a,b").exit_code == 0


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ((), "exactly one of --labels and --labels-file must be given; got neither"),
        (("--labels", "a", "--labels-file", "x"), "must be given; got both"),
        (("--labels", "a,,b"), "--labels must be separated by single commas, as in a,b,c; got an empty label in 'a,,b'"),
        (("--labels-file", "nowhere"), "the labels cannot be read from nowhere: [Errno 2]"),
        (("--labels", "a,b", "--templates", "{empty}"), "must have one or more templates, each on a line; got none"),
        (("--labels", "a,b", "--templates", "{wrong}"), "a template must be a string with {}"),
        (("--labels", "a,b", "--model", "ViT-Q"), "Model ViT-Q not found; available models = ['RN50'"),
        (
            ("--labels", "a,b", "--architecture", "ViT-B-33"),
            "name must be one of clipfast.models.list_models(); got 'ViT-B-33'; the closest names are",
        ),
        (("--labels", "a,b", "--sentencepiece", "nowhere"), "there is no SentencePiece model at nowhere"),
        (("--labels", "a,b", "--top-k", "0"), "--top-k"),
    ],
)
def test_errors_are_sentences(folder: Path, tmp_path: Path, arguments, message: str) -> None:
    (tmp_path / "empty").write_text("\n")
    (tmp_path / "wrong").write_text("no braces\n")
    arguments = [a.format(empty=tmp_path / "empty", wrong=tmp_path / "wrong") if a[:1] == "{" else a for a in arguments]
    model = () if "--model" in arguments else ("--model", str(folder / "model.pt"))
    done = CliRunner(env={"COLUMNS": "300"}).invoke(app, ["classify", str(folder / "some"), *arguments, *model])
    assert done.exit_code != 0
    assert message in done.output
    assert done.exception is None or isinstance(done.exception, SystemExit)


def test_a_folder_without_pictures(folder: Path, tmp_path: Path) -> None:
    done = run(folder, tmp_path, "--labels", "a")
    assert done.exit_code == 1
    assert f"there are no pictures in the folder {tmp_path}" in done.output
