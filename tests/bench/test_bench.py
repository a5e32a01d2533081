"""The comparison of losses: its contenders, what does not fit in memory, its files, and other projects' losses."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

from clipfast.bench.bench_report import write_picture, write_results
from clipfast.bench.measure import compare
from clipfast.bench.peers import file_of_package
from clipfast.compute.registry import backends
from clipfast.losses.declaration import LOSSES

BENCHMARKS = Path(__file__).parents[2] / "benchmarks"


@pytest.mark.parametrize("loss", LOSSES)
def test_a_comparison_has_every_contender(loss: str) -> None:
    found = compare(loss, 48, 8, compiled=False, budget_seconds=0.0)
    swept = [f"clipfast {name}" for name in ("cpu", "torch") if backends()[name] is None]
    assert [row["name"] for row in found["results"]] == ["dense eager", *swept]
    assert all(row["median_s"] > 0 and row["runs"] >= 3 and min(row["floor_share"].values()) > 0 for row in found["results"])


def test_what_does_not_fit_is_said_and_not_run(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("clipfast.bench.measure.available_bytes", lambda: 1000)
    found = compare("clip", 48, 8, compiled=False, budget_seconds=0.0)
    assert found["results"][0] == {"name": "dense eager", "skipped": "its logits do not fit in memory"}
    assert "median_s" in found["results"][1]


def test_the_results_in_the_repository_can_be_drawn(tmp_path: Path) -> None:
    for path in (Path(__file__).parents[2] / "benchmarks" / "results").glob("clip_*.json"):
        content = json.loads(path.read_text())
        write_results(tmp_path / "again.json", content["environment"], content["comparisons"])
        write_picture(tmp_path / "again.png", content["environment"], content["comparisons"])
        assert json.loads((tmp_path / "again.json").read_text()) == content


def test_without_matplotlib_the_picture_says_what_to_install(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "matplotlib.figure", None)
    with pytest.raises(ImportError, match=r"the picture needs matplotlib, .*'clipfast\[bench\]'"):
        write_picture(tmp_path / "bench.png", {}, [])


def test_one_file_of_a_package_is_a_module() -> None:
    assert file_of_package("json", "scanner.py", "json").NUMBER_RE.match("12")
    with pytest.raises(ModuleNotFoundError, match="no-such-project is not installed: pip install --no-deps no-such-project"):
        file_of_package("no_such_package", "loss.py", "no-such-project")


@pytest.mark.parametrize("script", sorted(path.stem for path in BENCHMARKS.glob("*.py")))
def test_a_benchmark_s_imports_are_there(script: str) -> None:
    """Some need a GPU or minutes to run, so that nothing else would notice a name that is gone."""
    code = f"import importlib, sys; sys.path.insert(0, {str(BENCHMARKS)!r}); importlib.import_module({script!r})"
    subprocess.run([sys.executable, "-c", code], check=True)
