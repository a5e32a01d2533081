"""The log of a resumed run, and the progress bar."""

from __future__ import annotations

import math
import re
from pathlib import Path

import pytest

from clipfast.training.records.run_log import open_log, read_log
from clipfast.training.records.run_record import progress_bar


def test_the_log_forgets_steps_that_will_come_again(tmp_path: Path):
    with open_log(tmp_path, 0) as log:
        for step in (1, 2, 3):
            log.write("step", step, loss=1.0 / step, norm=math.inf)
    with (tmp_path / "log.jsonl").open("a") as file:
        file.write('7\n{"event": "st')  # the process was killed
    with open_log(tmp_path, 2) as log:
        log.write("resumed", 2, name="ü\u2028")
    lines = read_log(tmp_path / "log.jsonl")
    assert [(line["event"], line["step"]) for line in lines] == [("step", 1), ("step", 2), ("resumed", 2)]
    assert lines[0] == {"event": "step", "step": 1, "loss": 1.0, "norm": None}


def test_a_bar_on_a_terminal(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]):
    monkeypatch.setenv("FORCE_COLOR", "1")  # rich then takes any output for a terminal
    monkeypatch.setenv("COLUMNS", "150")
    with progress_bar(10, 2, True, 5) as show:
        show(7, "loss 1.5")
    shown = re.sub(r"\x1b\[[0-9;?]*[a-zA-Z]", "", capsys.readouterr().out)
    assert " 7/10 loss 1.5" in shown
    with progress_bar(10, 2, False, 5) as show:
        show(7, "loss 1.5")
    assert capsys.readouterr().out == ""
