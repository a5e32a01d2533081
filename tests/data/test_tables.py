"""CSV, TSV and JSONL: which rows are read, which are skipped, with their lines, and which files are refused."""

from __future__ import annotations

import tracemalloc
from pathlib import Path

import pytest
from data_files import PLAIN, digits, noise, numbered_table, numbers, picture, shown, write_csv, write_jsonl

from clipfast.data import DataConfig, NothingReadableError, open_pairs
from clipfast.data.table import Table
from clipfast.data.table_rows import DelimitedRows, JsonRows


def pairs(source: Path, batch_size: int, **options):
    config = DataConfig(str(source), augment="none", workers=0, **options)
    return open_pairs(config, PLAIN, digits, batch_size=batch_size, seed=0)


def test_a_table_pairs_pictures_with_captions(tmp_path: Path):
    data = pairs(numbered_table(tmp_path, 300), 100)
    found = list(data.epoch(0))
    assert data.steps == len(found) == 3
    assert all(numbers(batch) == shown(batch) for batch in found)
    assert sorted(number for batch in found for number in numbers(batch)) == list(range(300))


@pytest.mark.parametrize("ending", ["csv", "tsv"])
def test_fields_with_quotes_newlines_and_other_letters(tmp_path: Path, ending: str):
    captions = ['a "cat"', "two\nlines", "tab\tand, comma", "naïve café", "", " "]
    table = write_csv(tmp_path / f"t.{ending}", [(f"{i}.png", caption) for i, caption in enumerate(captions)])
    rows = DelimitedRows(table)
    assert [rows[i]["caption"] for i in range(len(rows))] == captions
    assert [rows[i]["caption"] for i in (4, 1, 3)] == [captions[i] for i in (4, 1, 3)]
    assert [rows.line(i) for i in range(6)] == [2, 3, 5, 6, 7, 8]
    assert list(rows.column("caption")) == captions


def test_a_byte_order_mark_and_blank_lines_are_skipped(tmp_path: Path):
    (tmp_path / "t.csv").write_bytes(b"\xef\xbb\xbfimage,caption\r\n\r\na.png,1\r\n\r\nb.png,2\r\n")
    rows = DelimitedRows(tmp_path / "t.csv")
    assert rows.columns == ("image", "caption")
    assert [(rows.line(i), rows[i]["image"]) for i in range(len(rows))] == [(3, "a.png"), (5, "b.png")]
    (tmp_path / "t.jsonl").write_bytes(
        b'\xef\xbb\xbf\n{"image": "a.png", "caption": "1"}\n\n{"image": "b.png", "caption": "2"}'
    )
    lines = JsonRows(tmp_path / "t.jsonl")
    assert [(lines.line(i), lines[i]["image"]) for i in range(len(lines))] == [(2, "a.png"), (4, "b.png")]


def test_paths_start_at_the_table_or_at_the_root(tmp_path: Path):
    (tmp_path / "below").mkdir()
    picture(7).save(tmp_path / "7.png")
    rows = [{"file": "7.png", "text": "7"}, {"file": str(tmp_path / "7.png"), "text": "7"}]
    table = write_jsonl(tmp_path / "below" / "t.jsonl", rows)
    keys = {"image_key": "file", "caption_key": "text"}
    (batch,) = pairs(table, 2, root=str(tmp_path), **keys).epoch(0)
    assert shown(batch) == [7, 7]
    (batch,) = pairs(table, 2, **keys).epoch(0)
    assert shown(batch) == [7]
    assert batch.skipped[0].where == f"{table}:1"
    assert batch.skipped[0].why.endswith("below/7.png: No such file or directory")


def test_one_of_several_captions_is_drawn_anew_each_epoch(tmp_path: Path):
    picture(3).save(tmp_path / "3.png")
    table = write_jsonl(tmp_path / "t.jsonl", [{"image": "3.png", "caption": [f"caption {i}" for i in range(4)]}] * 50)
    data = pairs(table, 50)
    (first,), (second,), (again,) = data.epoch(0), data.epoch(1), data.epoch(0)
    assert set(numbers(first)) == {0, 1, 2, 3}
    assert sorted(numbers(first)) != sorted(numbers(second))
    assert numbers(first) == numbers(again)


def broken_files(folder: Path) -> list[tuple[str, object, str]]:
    """For each: its file, its caption, and why it cannot be read."""
    for kind in ("png", "jpg", "webp"):
        noise(1, 60, 50).save(folder / f"whole.{kind}")
        whole = (folder / f"whole.{kind}").read_bytes()
        (folder / f"cut.{kind}").write_bytes(whole[: len(whole) * 2 // 3])
    (folder / "text.png").write_text("no picture")
    (folder / "empty.png").write_bytes(b"")
    (folder / "folder.png").mkdir()
    return [
        ("cut.png", "1", "cut.png: "),
        ("cut.jpg", "1", "cut.jpg: "),
        ("cut.webp", "1", "cut.webp: "),
        ("text.png", "1", "text.png: not a picture in a format that pillow reads"),
        ("empty.png", "1", "empty.png: not a picture in a format that pillow reads"),
        ("missing.png", "1", "missing.png: No such file or directory"),
        ("folder.png", "1", "folder.png: Is a directory"),
        ("0.png", "", "the caption is empty (in 'caption')"),
        ("0.png", " \t", "the caption is empty (in 'caption')"),
        ("0.png", None, "the caption is empty (in 'caption')"),
        ("0.png", [], "the caption is empty (in 'caption')"),
        ("0.png", ["1", ""], "the caption is empty (in 'caption')"),
        ("0.png", 5, "the caption must be a text; got int (in 'caption')"),
        ("0.png", ["1", 5], "the caption must be a text; got int (in 'caption')"),
        ("0.png", "no number", "the caption cannot be tokenized: invalid literal"),
        ("", "1", "'image' must be the path of a picture; got ''"),
        (None, "1", "'image' must be the path of a picture; got None"),
    ]


def test_broken_pairs_are_named_and_the_others_are_used(tmp_path: Path):
    picture(0).save(tmp_path / "0.png")
    broken = broken_files(tmp_path)
    rows = [{"image": "0.png", "caption": "0"}, *({"image": image, "caption": caption} for image, caption, _ in broken)]
    table = write_jsonl(tmp_path / "t.jsonl", rows)
    (batch,) = pairs(table, len(rows)).epoch(0)
    assert numbers(batch) == [0]
    why = {skipped.where: skipped.why for skipped in batch.skipped}
    assert len(why) == len(broken)
    for line, (_, _, reason) in enumerate(broken, 2):
        assert reason in why[f"{table}:{line}"]


def test_broken_rows_are_named(tmp_path: Path):
    picture(0).save(tmp_path / "0.png")
    table = tmp_path / "t.csv"
    table.write_bytes(b"image,caption\n0.png,0\n0.png\n0.png,1,2\n0.png,caf\xe9 1\n")
    (batch,) = pairs(table, 4).epoch(0)
    assert sorted(batch.skipped) == [
        (f"{table}:3", "the row must have 2 fields, as the header; got 1"),
        (f"{table}:4", "the row must have 2 fields, as the header; got 3"),
        (f"{table}:5", "the caption is not UTF-8 (in 'caption')"),
    ]
    lines = tmp_path / "t.jsonl"
    lines.write_text('{"image": "0.png", "caption": "0"}\n{"image": \n["0.png"]\n')
    (batch,) = pairs(lines, 3).epoch(0)
    assert [(where, why.partition(":")[0]) for where, why in sorted(batch.skipped)] == [
        (f"{lines}:2", "the line must be JSON; got Expecting value"),
        (f"{lines}:3", "the line must be a JSON object; got list"),
    ]


def test_a_batch_without_a_readable_pair_has_its_own_error(tmp_path: Path):
    table = write_csv(tmp_path / "t.csv", [(f"{i}.png", "1") for i in range(4)])
    with pytest.raises(NothingReadableError, match=r"none of a batch's 4 pairs can be read; .*t\.csv:\d: .*No such file"):
        list(pairs(table, 4).epoch(0))


@pytest.mark.parametrize(
    ("name", "contents", "message"),
    [
        ("t.csv", b"", r"t\.csv must have at least one row; got none"),
        ("t.csv", b"image,caption\n\n", r"t\.csv must have at least one row; got none"),
        ("t.jsonl", b"\n\n", r"t\.jsonl must have at least one row; got none"),
        ("t.csv", b"file,caption\na,b\n", r"t\.csv must have a column 'image'; got 'file', 'caption'"),
        ("t.csv", b"image\tcaption\na\tb\n", r"t\.csv must have commas between its columns; got tabs; rename it to \.tsv"),
        ("t.tsv", b"image,caption\na,b\n", r"t\.tsv must have a column 'image'; got 'image,caption'"),
        ("t.jsonl", b'{"image": "a", "text": "b"}\n', r"t\.jsonl must have a column 'caption'; got 'image', 'text'"),
        ("t.csv", b"PK\x03\x04\x14\x00\x08\x08\n\x00", r"t\.csv must be a \.csv file in UTF-8; got"),
        ("t.csv", "image,caption\na,b\n".encode("utf-16"), r"t\.csv must be a \.csv file in UTF-8; got"),
        ("t.jsonl", b"image,caption\na,b\n", r"t\.jsonl must be a \.jsonl file; in its first line the line must be JSON; got"),
        (
            "t.jsonl",
            b"[1, 2]\n",
            r"t\.jsonl must be a \.jsonl file; in its first line the line must be a JSON object; got list",
        ),
        ("t.csv", b'image,caption\na,"b\nc,d\n', r"t\.csv:3 must be a row of a \.csv file; got unexpected end of data"),
        ("t.csv", b'image,caption\na,b\na,"b"c\n', r"t\.csv:3 must be a row of a \.csv file; got ',' expected after '\"'"),
        ("t.parquet", b"PAR1", r"source must be a table \(\.csv, \.tsv, \.jsonl\), a folder .*; got .*t\.parquet$"),
    ],
)
def test_files_that_are_refused(tmp_path: Path, name: str, contents: bytes, message: str):
    (tmp_path / name).write_bytes(contents)
    with pytest.raises(ValueError, match=message):
        pairs(tmp_path / name, 1)


def test_missing_files_and_columns(tmp_path: Path):
    with pytest.raises(FileNotFoundError, match=r"there is no file or folder .*nowhere\.csv"):
        pairs(tmp_path / "nowhere.csv", 1)
    table = numbered_table(tmp_path, 3)
    with pytest.raises(ValueError, match="must have a column 'label'; got 'image', 'caption'"):
        pairs(table, 1, distinct="label")


@pytest.mark.parametrize("ending", ["csv", "jsonl"])
def test_a_table_takes_16_bytes_a_row(tmp_path: Path, ending: str):
    rows = [(f"{i}.png", "a caption of some length " * 8) for i in range(20_000)]
    if ending == "csv":
        table = write_csv(tmp_path / "t.csv", rows)
    else:
        table = write_jsonl(tmp_path / "t.jsonl", [{"image": image, "caption": caption} for image, caption in rows])
    tracemalloc.start()
    try:
        records = Table(DataConfig(str(table)))
        held, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert len(records) == 20_000
    assert held < 20_000 * 16 * 1.2 + 50_000
    assert peak < 20_000 * 16 * 2 + 200_000


def test_labels_and_groups(tmp_path: Path):
    rows = [("a.png", "dog"), ("b.png", "cat"), ("a.png", "dog"), ("c.png", "")]
    table = Table(DataConfig(str(write_csv(tmp_path / "t.csv", rows))))
    assert table.labels() == ["cat", "dog"]
    listed = [{"image": "a.png", "caption": caption} for caption in (["owl"], "cat", 5, [""], ["cat"])]
    assert Table(DataConfig(str(write_jsonl(tmp_path / "t.jsonl", listed)))).labels() == ["cat", "owl"]
    assert table.groups("image").tolist() == [0, 1, 0, 2]
    assert table.groups("caption").tolist() == [0, 1, 0, 2]
