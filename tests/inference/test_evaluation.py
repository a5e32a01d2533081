"""Metrics on files against dense computations on known features."""

from __future__ import annotations

import logging
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
from data_files import PLAIN, digits, encoded, numbered_table, picture, write_csv, write_jsonl
from torch import Tensor, nn

from clipfast.data import DataConfig, NothingReadableError
from clipfast.inference.evaluation import retrieval_metrics, zero_shot_metrics

WIDTH = 16


class Towers(nn.Module):
    """Each number, of a picture or a caption, has random features: right for some pairs, wrong for others."""

    def __init__(self, noise: float = 0.5) -> None:
        super().__init__()
        random = torch.Generator().manual_seed(0)
        self.images = nn.Embedding.from_pretrained(torch.randn(300, WIDTH, generator=random))
        texts = self.images.weight + noise * torch.randn(300, WIDTH, generator=random)
        self.texts = nn.Embedding.from_pretrained(texts)
        self.logit_scale = nn.Parameter(torch.tensor(2.0))
        self.drop = nn.Dropout(0.5)
        self.largest = 0

    def encode_image(self, images: Tensor) -> Tensor:
        self.largest = max(self.largest, len(images))
        colours = (images[:, :2, 0, 0] * 255).round().long()
        return self.drop(self.images(colours[:, 0] + 256 * colours[:, 1]))

    def encode_text(self, tokens: Tensor) -> Tensor:
        self.largest = max(self.largest, len(tokens))
        return self.drop(self.texts(tokens[:, 0].long()))


def dense_ranks(queries: Tensor, keys: Tensor) -> Tensor:
    return (F.normalize(queries.double(), dim=1) @ F.normalize(keys.double(), dim=1).T).argsort(dim=1, descending=True)


@pytest.mark.parametrize("workers", [0, 2])
def test_retrieval_with_one_caption_each(tmp_path: Path, workers: int):
    model = Towers(2.0).train()
    config = DataConfig(str(numbered_table(tmp_path, 50)), workers=workers)
    metrics = retrieval_metrics(model, config, PLAIN, digits, batch_size=7)
    images, texts = model.images.weight[:50], model.texts.weight[:50]
    for way, ranks in (("image_to_text", dense_ranks(images, texts)), ("text_to_image", dense_ranks(texts, images))):
        for k in (1, 5, 10):
            expected = (ranks[:, :k] == torch.arange(50)[:, None]).any(1).double().mean().item()
            assert metrics[f"{way}_recall@{k}"] == pytest.approx(expected)
            assert k == 10 or 0.1 < expected < 0.95
    assert (metrics["pictures"], metrics["texts"], metrics["skipped"]) == (50, 50, 0)
    assert model.training
    assert model.drop.training
    assert model.largest == 7


def several_captions(folder: Path) -> tuple[list[tuple[str, list[str]]], Tensor]:
    """Picture i has i % 3 + 1 captions, with the numbers i, i + 100 and i + 200."""
    for i in range(20):
        picture(i).save(folder / f"{i}.png")
    rows = [(f"{i}.png", [str(i + 100 * j) for j in range(i % 3 + 1)]) for i in range(20)]
    return rows, torch.tensor([int(caption) for _, captions in rows for caption in captions])


def test_retrieval_with_several_captions(tmp_path: Path):
    """The same captions in lists, or in several rows of a table, in any order."""
    rows, texts = several_captions(tmp_path)
    model = Towers(1.0)
    found = dense_ranks(model.images.weight[:20], model.texts(texts))
    hits = (texts[found[:, :5]] % 100 == torch.arange(20)[:, None]).any(1).double().mean().item()
    listed = write_jsonl(tmp_path / "t.jsonl", [{"image": image, "caption": captions} for image, captions in rows])
    single = [(image, caption) for image, captions in rows for caption in captions]
    table = write_csv(tmp_path / "t.csv", [*single[1::2], *single[::2]])
    configs = [DataConfig(str(path), workers=0) for path in (listed, table)]
    results = [retrieval_metrics(model, config, PLAIN, digits, batch_size=6) for config in configs]
    assert model.largest == 6
    assert results[0] == pytest.approx(results[1])
    assert results[0]["image_to_text_recall@5"] == pytest.approx(hits)
    assert (results[0]["pictures"], results[0]["texts"]) == (20, len(texts))


def test_a_row_that_cannot_be_read_is_named_with_its_picture(tmp_path: Path, caplog: pytest.LogCaptureFixture):
    table = numbered_table(tmp_path, 5)
    with table.open("a") as file:
        file.write("3.png,\nmissing.png,1\n")
    with caplog.at_level(logging.WARNING, "clipfast"):
        metrics = retrieval_metrics(Towers(), DataConfig(str(table), workers=0), PLAIN, digits)
    assert (metrics["pictures"], metrics["texts"], metrics["skipped"]) == (4, 4, 2)
    assert caplog.messages == [
        f"left out of the evaluation: {table}:5: {table}:7: the caption is empty (in 'caption')",
        f"left out of the evaluation: {table}:8: {tmp_path}/missing.png: No such file or directory",
    ]


def test_retrieval_on_shards(tmp_path: Path):
    webdataset = pytest.importorskip("webdataset", reason="needs clipfast[data]")
    for shard in range(3):
        with webdataset.TarWriter(str(tmp_path / f"{shard}.tar")) as tar:
            for i in range(shard * 9, shard * 9 + 9):
                tar.write({"__key__": str(i), "png": encoded(picture(i)), "txt": str(i)})
    table = numbered_table(tmp_path, 27)
    configs = DataConfig(f"{tmp_path}/{{0..2}}.tar", workers=0), DataConfig(str(table), workers=0)
    shards, rows = (retrieval_metrics(Towers(), config, PLAIN, digits, batch_size=10) for config in configs)
    assert shards == rows


def test_few_pictures_have_fewer_recalls(tmp_path: Path):
    metrics = retrieval_metrics(Towers(), DataConfig(str(numbered_table(tmp_path, 6)), workers=0), PLAIN, digits)
    assert {name for name in metrics if "@" in name} == {
        f"{way}_recall@{k}" for way in ("image_to_text", "text_to_image") for k in (1, 5)
    }


def test_zero_shot_on_a_table(tmp_path: Path):
    """Class k has the pictures k and k + 40; the names are in no order."""
    numbers = torch.randperm(80, generator=torch.Generator().manual_seed(1))
    for i in numbers.tolist():
        picture(i).save(tmp_path / f"{i}.png")
    table = write_csv(tmp_path / "t.csv", [(f"{i}.png", str(i % 40)) for i in numbers.tolist()], ("image", "label"))
    model = Towers(1.5)
    config = DataConfig(str(table), caption_key="label", templates=("{}", "1{}"), workers=0)
    metrics = zero_shot_metrics(model, config, PLAIN, digits, batch_size=9)
    prompts = torch.tensor([[k, int(f"1{k}")] for k in range(40)])
    classes = F.normalize(model.texts(prompts), dim=2).mean(1)
    ranks = dense_ranks(model.images(numbers), classes)
    right = (ranks == (numbers % 40)[:, None]).double()
    assert metrics["top1"] == pytest.approx(right[:, 0].mean().item())
    assert metrics["top5"] == pytest.approx(right[:, :5].sum(1).mean().item())
    assert 0.1 < metrics["top1"] < metrics["top5"] < 1
    assert model.largest <= 80


def test_zero_shot_on_folders_and_what_is_skipped(tmp_path: Path, caplog: pytest.LogCaptureFixture):
    for k in range(3):
        (tmp_path / str(k)).mkdir()
        for i in (k, k + 3):
            picture(i).save(tmp_path / str(k) / f"{i}.png")
    (tmp_path / "1" / "bad.png").write_text("no picture")
    model = Towers(0.0)
    model.images.weight[3:6] = model.images.weight[:3]
    config = DataConfig(str(tmp_path), templates=("picture {}",), workers=0)
    with caplog.at_level(logging.WARNING, "clipfast"):
        metrics = zero_shot_metrics(model, config, PLAIN, digits)
    assert metrics == {"top1": 1.0, "top5": 1.0, "pictures": 6, "skipped": 1}
    assert caplog.messages == [f"left out of the evaluation: {tmp_path}/1/bad.png: not a picture in a format that pillow reads"]


def test_sources_that_are_refused(tmp_path: Path):
    (tmp_path / "classes" / "one").mkdir(parents=True)
    (tmp_path / "classes" / "one" / "0.png").write_text("no picture")
    with pytest.raises(
        ValueError,
        match=r"source must be a table or tar shards for retrieval; got .*, class folders, whose captions are shared",
    ):
        retrieval_metrics(Towers(), DataConfig(str(tmp_path / "classes")), PLAIN, digits)
    with pytest.raises(
        ValueError, match="source must be class folders or a table of pictures and classes, for zero-shot classification; got"
    ):
        zero_shot_metrics(Towers(), DataConfig("a.tar"), PLAIN, digits)
    for name, value in (("samples", 5), ("distinct", "class")):
        with pytest.raises(ValueError, match=f"{name} must be left out for .*; got .*; an evaluation reads every picture once"):
            zero_shot_metrics(Towers(), DataConfig(str(tmp_path), **{name: value}), PLAIN, digits)
    picture(0).save(tmp_path / "0.png")
    nameless = write_csv(tmp_path / "t.csv", [("0.png", "")])
    with pytest.raises(NothingReadableError, match=r"t\.csv must have a readable class name; got none"):
        zero_shot_metrics(Towers(), DataConfig(str(nameless), workers=0), PLAIN, digits)
    two = write_jsonl(tmp_path / "t.jsonl", [{"image": "0.png", "caption": ["1", "2"]}])
    with pytest.raises(ValueError, match="a picture must have one class for zero-shot classification; got 1, 2"):
        zero_shot_metrics(Towers(), DataConfig(str(two), templates=("{}",), workers=0), PLAIN, digits)
    config = DataConfig(str(tmp_path / "classes"), templates=("{} 1",), workers=0)
    with pytest.raises(NothingReadableError, match=r"must have a readable picture; got none; .*0\.png: not a picture"):
        zero_shot_metrics(Towers(), config, PLAIN, digits)
