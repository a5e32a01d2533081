"""The command line: what it prints, the files that it writes, and its errors."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from typer.testing import CliRunner

import clipfast
from clipfast.bench.bench_report import write_json, write_picture
from clipfast.bench.cases import cases
from clipfast.bench.measure import compare
from clipfast.cli import doctor
from clipfast.cli.app import app
from clipfast.compute import native
from clipfast.compute.registry import backends
from clipfast.losses.declaration import LOSSES


def run(*arguments: str):
    return CliRunner(env={"COLUMNS": "200"}).invoke(app, list(arguments))


def unwrapped(output: str) -> str:
    """A table's text without its frame and line breaks, which depend on the terminal's width."""
    return " ".join(output.replace("│", " ").split())


def test_doctor_names_every_backend_with_its_reason(monkeypatch: pytest.MonkeyPatch) -> None:
    found = run("doctor")
    assert found.exit_code == 0
    assert all(f"backend {name}" in unwrapped(found.output) for name in backends())
    monkeypatch.setattr(native, "load_error", lambda extension="cpu": "it was not built")
    lacking = run("doctor")
    assert "not usable: the CPU extension is not available: it was not built" in unwrapped(lacking.output)
    assert clipfast.backends()["cpu"] is not None
    assert clipfast.backends()["torch"] is None


def test_doctor_describes_a_gpu(monkeypatch: pytest.MonkeyPatch) -> None:
    """With the GPU's answers given: what no test here can ask."""
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 1)
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda *_: "NVIDIA H200")
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda *_: (9, 0))
    monkeypatch.setattr(doctor, "_features", lambda: torch.empty(1, 8, device="meta", dtype=torch.bfloat16))
    monkeypatch.setattr(doctor, "resolve", lambda *_: SimpleNamespace(name="triton"))
    found = dict(doctor.report())
    assert found["GPU 0"] == "NVIDIA H200, compute capability 9.0"
    assert found["chosen on the GPU"].startswith("triton")
    assert "8448 x 8448, 136 MiB" in found["GPU tile, workspace"]


@pytest.mark.parametrize("loss", LOSSES)
def test_a_comparison_has_every_contender(loss: str) -> None:
    found = compare(loss, 48, 8, compiled=False, budget_seconds=0.0)
    names = [row["name"] for row in found["results"]]
    assert names == [case.name for case in cases(loss, compiled=False)]
    assert all(row["median_s"] > 0 and row["runs"] >= 3 and min(row["floor_share"].values()) > 0 for row in found["results"])


def test_what_does_not_fit_is_said_and_not_run(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("clipfast.bench.measure.available_bytes", lambda: 1000)
    found = compare("clip", 48, 8, compiled=False, budget_seconds=0.0)
    assert found["results"][0] == {"name": "dense eager", "skipped": "its logits do not fit in memory"}
    assert "median_s" in found["results"][1]


def test_bench_writes_json_and_a_picture(tmp_path: Path) -> None:
    written, picture = tmp_path / "deep" / "bench.json", tmp_path / "bench.png"
    found = run(
        "bench",
        "--sizes",
        "32,64",
        "--dim",
        "8",
        "--no-compiled",
        "--seconds",
        "0",
        "--json",
        str(written),
        "--plot",
        str(picture),
    )
    assert found.exit_code == 0, found.output
    content = json.loads(written.read_text())
    assert [c["n"] for c in content["comparisons"]] == [32, 64]
    assert {"processor", "threads", "torch"} <= content["environment"].keys()
    assert picture.read_bytes().startswith(b"\x89PNG")
    assert sorted(p.name for p in tmp_path.rglob("*") if p.is_file()) == ["bench.json", "bench.png"]  # nothing partial left


def test_the_results_in_the_repository_can_be_drawn(tmp_path: Path) -> None:
    for path in (Path(__file__).parents[2] / "benchmarks" / "results").glob("clip_*.json"):
        content = json.loads(path.read_text())
        write_json(tmp_path / "again.json", content["environment"], content["comparisons"])
        write_picture(tmp_path / "again.png", content["environment"], content["comparisons"])
        assert json.loads((tmp_path / "again.json").read_text()) == content


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("bench", "--sizes", "ten"), "whole numbers above 0"),
        (("bench", "--sizes", "0"), "whole numbers above 0"),
        (("bench", "--loss", "triplet"), "triplet"),
        (("bench", "--sizes", "32", "--workspace-mib", "0"), "workspace_bytes must be at least"),
        (("demo", "--names", "1"), "number of names"),
        (("nothing",), "No such command"),
    ],
)
def test_errors_are_sentences(arguments: tuple[str, ...], message: str, monkeypatch: pytest.MonkeyPatch) -> None:
    if arguments[0] == "demo":
        monkeypatch.setattr("clipfast.bench.measure.compare", _quick)
    found = run(*arguments)
    assert found.exit_code != 0
    assert message in found.output
    assert not isinstance(found.exception, ValueError)


def _quick(*_, **__) -> dict:
    return compare("clip", 16, 4, compiled=False, budget_seconds=0.0)


def test_without_the_extra_the_command_says_what_to_install() -> None:
    code = "import runpy, sys; sys.modules['typer'] = None; runpy.run_module('clipfast', run_name='__main__')"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 1
    assert "pip install 'clipfast[cli]'" in done.stderr


def test_importing_the_package_is_light() -> None:
    heavy = ("rich", "typer", "matplotlib", "PIL", "clipfast.models", "clipfast.demo")
    code = f"import sys, clipfast; print([m for m in {heavy} if m in sys.modules])"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
