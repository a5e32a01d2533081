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
from clipfast.bench.measure import compare
from clipfast.cli import doctor
from clipfast.cli.app import app
from clipfast.compute import native
from clipfast.compute.registry import backends


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
    """The answers of a GPU are made up: these tests run without one."""
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 1)
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda *_: "NVIDIA H200")
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda *_: (9, 0))
    monkeypatch.setattr(doctor, "_features", lambda: torch.empty(1, 8, device="meta", dtype=torch.bfloat16))
    chosen = {torch.float64: "torch"}
    monkeypatch.setattr(doctor, "resolve", lambda _, x: SimpleNamespace(name=chosen.get(x.dtype, "triton")))
    found = dict(doctor.report())
    assert found["GPU 0"] == "NVIDIA H200, compute capability 9.0"
    assert found["chosen on the GPU"] == (
        "triton, for half precision and float32; torch for float64 features; cuda only by name: no measurement prefers it yet"
    )
    assert "8448 x 8448, 136 MiB" in found["GPU tile, workspace"]
    chosen[torch.bfloat16] = "torch"
    assert dict(doctor.report())["chosen on the GPU"].startswith("torch, because triton does not run: ")


def test_bench_writes_json_and_a_picture(tmp_path: Path) -> None:
    written, picture = tmp_path / "deep" / "bench.json", tmp_path / "bench.png"
    quick = ("bench", "--sizes", "32,64", "--dim", "8", "--no-compiled", "--seconds", "0")
    found = run(*quick, "--json", str(written), "--plot", str(picture))
    assert found.exit_code == 0, found.output
    content = json.loads(written.read_text())
    assert [c["n"] for c in content["comparisons"]] == [32, 64]
    assert {"processor", "threads", "torch"} <= content["environment"].keys()
    assert picture.read_bytes().startswith(b"\x89PNG")
    assert sorted(p.name for p in tmp_path.rglob("*") if p.is_file()) == ["bench.json", "bench.png"]  # nothing partial left


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("bench", "--sizes", "ten"), "must be whole numbers above 0"),
        (("bench", "--sizes", "0"), "must be whole numbers above 0"),
        (("bench", "--loss", "triplet"), "loss must be one of 'clip', "),
        (("bench", "--sizes", "32", "--workspace-mib", "0"), "workspace_bytes must be at least"),
        (("demo", "--names", "1"), "the number of names must be between 2 and"),
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
