"""Machines from files and flags, and the errors of machines and problems."""

from __future__ import annotations

from pathlib import Path

import pytest

from clipfast.losses.declaration import LOSSES
from clipfast.plan import machine
from clipfast.plan.machine import FIGURES, FLAG, Machine
from clipfast.plan.problem import Problem


def written(folder: Path, text: str) -> Path:
    path = folder / "cluster.toml"
    path.write_text(text, "utf-8")
    return path


def test_a_file_gives_some_figures_and_the_rest_are_defaults(tmp_path: Path) -> None:
    path = written(tmp_path, "copy_gb_s = 2000\nnode_us = 0\n[product_tflops]\nbfloat16 = 300\nfloat32 = 19.5\n")
    found = machine.read(path, "float32")
    assert (found.name, found.copy_gb_s, found.product_tflops, found.node_us) == ("cluster", 2000, 19.5, 0)
    assert {name for name in FIGURES if found.source(name) == "file"} == {"copy_gb_s", "product_tflops", "node_us"}
    assert found.node_gb_s == Machine().node_gb_s


def test_a_flag_outranks_the_file(tmp_path: Path) -> None:
    found = machine.read(written(tmp_path, "copy_gb_s = 2000\n"), "bfloat16").updated(FLAG, copy_gb_s=1000.0)
    assert (found.copy_gb_s, found.source("copy_gb_s"), found.source("tile_us")) == (1000.0, "flag", "default")


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("copy_gb_s = -1", "copy_gb_s must be a finite number above 0; got -1"),
        ("copy_gb_s = inf", "copy_gb_s must be a finite number above 0; got inf"),
        ("copy_gb_s = true", "copy_gb_s must be a finite number above 0; got True"),
        ('copy_gb_s = "fast"', "got 'fast'"),
        ("node_gb_s = 0", "node_gb_s must be"),
        ("tile_us = -1", "tile_us must be a finite number of at least 0; got -1"),
        ("node_ranks = 2.5", "node_ranks must be a whole number"),
        ('device = "tpu"', "device must be one of 'cuda', 'cpu'; got 'tpu'"),
        ("bandwidth = 3", "keys must be among name, device, product_tflops"),
        ("[product_tflops]\nfloat64 = 3", "product_tflops must have an entry for bfloat16; got float64"),
        ("copy_gb_s: 3", "is not a TOML file"),
    ],
)
def test_what_is_wrong_with_a_file_is_said_with_its_name(tmp_path: Path, text: str, message: str) -> None:
    with pytest.raises(ValueError, match=r"cluster\.toml") as found:
        machine.read(written(tmp_path, text), "bfloat16")
    assert message in str(found.value)


def test_text_that_is_no_utf8(tmp_path: Path) -> None:
    path = tmp_path / "latin.toml"
    path.write_bytes(b'name = "M\xfcnchen"')
    with pytest.raises(ValueError, match=r"latin\.toml is not a TOML file"):
        machine.read(path, "bfloat16")


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"loss": "triplet"}, f"loss must be one of {', '.join(map(repr, LOSSES))}; got 'triplet'"),
        ({"dtype": "int8"}, "dtype must be one of 'float32', 'bfloat16', 'float16', 'float64'; got 'int8'"),
        ({"gradients": "texts"}, "gradients must be one of 'both', 'rows', 'columns', 'none'; got 'texts'"),
        ({"device": "tpu"}, "device must be one of 'cuda', 'cpu'"),
        ({"batch": 0}, "batch must be a whole number of at least 1; got 0"),
        ({"dim": -8}, "dim must be a whole number of at least 1; got -8"),
        ({"ranks": 0}, "ranks must be a whole number of at least 1; got 0"),
        ({"ranks": 65}, "got 64 pairs for 65 ranks"),
        (
            {"loss": "nt_xent", "gradients": "rows"},
            "gradients must be 'both' or 'none' for nt_xent; got 'rows'; its two sides are one matrix",
        ),
        ({"device": "cpu", "workspace_bytes": 100}, "workspace_bytes must be at least 36864"),
    ],
)
def test_impossible_problems(fields: dict, message: str) -> None:
    with pytest.raises(ValueError, match=r"\w") as found:
        Problem(**{"loss": "clip", "batch": 64, "dim": 8, **fields})
    assert message in str(found.value)


def test_uneven_batches_differ_by_one_pair() -> None:
    problem = Problem("nt_xent", 11, 8, ranks=4)
    assert problem.pairs_of_ranks == (3, 3, 3, 2)
    assert problem.rows_of_ranks == (6, 6, 6, 4)
