"""``python -m clipfast plan``: what it prints and writes, and its errors."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
import torch.distributed as dist
from typer.testing import CliRunner

from clipfast.cli.app import app
from clipfast.plan import calibrate
from clipfast.plan.machine import FIGURES

EXAMPLE = ("--batch", "1048576", "--dim", "1024", "--gpus", "256")


def run(*arguments: str):
    return CliRunner(env={"COLUMNS": "100"}).invoke(app, ["plan", *arguments])


def test_it_prints_every_strategy_and_says_what_was_not_measured() -> None:
    found = run(*EXAMPLE)
    assert found.exit_code == 0, found.output
    assert all(
        word in found.output for word in ("single", "gather", "ring", "together", "fits", "hidden", "operations", "sent")
    )
    text = " ".join(found.output.split())
    assert 'strategy="auto" takes ring.' in text
    assert f"Not measured here: {', '.join(FIGURES)}." in text


def test_the_json_has_the_same_and_its_parts_add_up(tmp_path: Path) -> None:
    path = tmp_path / "deep" / "plan.json"
    assert run(*EXAMPLE, "--loss", "siglip", "--json", str(path)).exit_code == 0
    content = json.loads(path.read_text())
    assert content["problem"]["batch"] == 2**20
    assert content["machine"]["sources"] == dict.fromkeys(FIGURES, "default")
    assert [plan["strategy"] for plan in content["plans"]] == ["single", "gather", "ring"]
    assert content["fastest"] in ("gather", "ring")
    for plan in content["plans"]:
        assert plan["step_s"] == pytest.approx(plan["compute_s"] + plan["exposed_s"])
        assert plan["extra_bytes"] == sum(plan["memory_bytes"].values()) - plan["memory_bytes"]["features"]
    assert content["plans"][2]["operations"] == 6 * 4096 * 2**20 * 1024


def test_flags_and_a_file_give_the_machine(tmp_path: Path) -> None:
    machine, path = tmp_path / "box.toml", tmp_path / "plan.json"
    machine.write_text('device = "cpu"\nproduct_tflops = 2\nsweep_share = 0.5\ncopy_gb_s = 100\ntile_us = 0\nmemory_gib = 64\n')
    arguments = ("--batch", "8192", "--dim", "512", "--dtype", "float32", "--machine", str(machine), "--json", str(path))
    assert run(*arguments, "--product-tflops", "4").exit_code == 0
    content = json.loads(path.read_text())
    assert content["machine"]["name"] == "box"
    assert (content["machine"]["product_tflops"], content["machine"]["sources"]["product_tflops"]) == (4.0, "flag")
    (plan,) = content["plans"]
    by_hand = plan["operations"] / 2e12 + 2 * 8192 * 512 * 7 * 4 / 100e9
    assert plan["step_s"] == pytest.approx(by_hand)


@pytest.mark.skipif(not dist.is_gloo_available(), reason="measures the link under gloo")
def test_calibration_measures_what_one_machine_can(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """They are positive, and marked as measured. How well they predict a step is for benchmarks/check_plan.py."""
    monkeypatch.setitem(calibrate.BATCH, "cpu", 640)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    path = tmp_path / "plan.json"
    found = run("--batch", "4096", "--dim", "64", "--dtype", "float32", "--gpus", "2", "--calibrate", "--json", str(path))
    assert found.exit_code == 0, found.output
    machine = json.loads(path.read_text())["machine"]
    measured = {name for name, source in machine["sources"].items() if source == "measured here"}
    assert measured == set(FIGURES) - {"node_ranks", "network_gb_s", "network_us"}
    assert all(machine[name] > 0 for name in measured)
    assert machine["device"] == "cpu"


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("--batch", "0", "--dim", "8"), "batch must be a whole number of at least 1; got 0"),
        (("--batch", "4", "--dim", "8", "--gpus", "8"), "got 4 pairs for 8 ranks"),
        (("--batch", "4", "--dim", "8", "--loss", "triplet"), "loss must be one of 'clip', "),
        (("--batch", "4", "--dim", "8", "--dtype", "int8"), "dtype must be one of 'float32'"),
        (("--batch", "4", "--dim", "8", "--copy-gb-s", "0"), "copy_gb_s must be a finite number above 0; got 0.0"),
        (("--batch", "4", "--dim", "8", "--machine", "absent.toml"), "No such file"),
        (("--batch", "four", "--dim", "8"), "valid integer"),
        (("--dim", "8"), "--batch"),
    ],
)
def test_errors_are_sentences(arguments: tuple[str, ...], message: str) -> None:
    found = run(*arguments)
    assert found.exit_code != 0
    assert message in " ".join(found.output.split())
    assert found.exception is None or isinstance(found.exception, SystemExit)


def test_a_cpu_has_no_default_rates(tmp_path: Path) -> None:
    machine = tmp_path / "cpu.toml"
    machine.write_text('device = "cpu"\ncopy_gb_s = 20\n')
    found = run("--batch", "4096", "--dim", "8", "--machine", str(machine))
    assert found.exit_code == 1
    assert "product_tflops, sweep_share, tile_us, memory_gib must be given for a CPU" in " ".join(found.output.split())
