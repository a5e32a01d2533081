"""The CUDA kernels' own source, run on the CPU under the address and undefined-behaviour sanitizers, against dense float64."""

from __future__ import annotations

import math
import platform
import shutil
from pathlib import Path

import cuda_cases as cases
import pytest
import torch
from cuda_cases import Case, check_weights, logit_error, problem, relative, shift_of
from cuda_emulation import Machine, build

pytestmark = pytest.mark.skipif(
    shutil.which("g++") is None or platform.system() != "Linux", reason="the emulation is built with g++ on Linux"
)

ARCHITECTURES = [80, 90]
MACHINES = [f"sm{capability}-{order}" for capability in ARCHITECTURES for order in ("early", "late")]
GRID = pytest.mark.parametrize(
    ("machine", "case"),
    # float32 takes the same kernel on both
    [(m, c) for m in MACHINES for c in cases.CASES if not (m.startswith("sm90") and c.dtype == "tf32")],
    indirect=["machine"],
    ids=str,
)


@pytest.fixture(scope="session")
def program(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return build(tmp_path_factory.mktemp("emulation"))


@pytest.fixture(params=MACHINES)
def machine(request: pytest.FixtureRequest, program: Path) -> Machine:
    capability, order = request.param.removeprefix("sm").split("-")
    return Machine(program, int(capability), descending=order == "late", lazy=order == "late")


@GRID
def test_exp_sums(machine: Machine, case: Case) -> None:
    p = problem(case)
    got = machine.exp_sums(p, shift_of(case), case.vectors)
    want = cases.exp_sums(p, shift_of(case), machine.shape(p.rows.dtype))
    for name, x in got.items():
        assert relative(x, want[name]) < logit_error(case), name


@GRID
def test_softmax_weights(machine: Machine, case: Case) -> None:
    p = problem(case)
    got = machine.softmax_weights(p, shift_of(case), padding=case.padding)
    check_weights(case, got, cases.softmax_weights(p, shift_of(case)))


@GRID
def test_sigmoid(machine: Machine, case: Case) -> None:
    p = problem(case)
    got, want = machine.sigmoid(p, -10.0, case.padding), cases.sigmoid(p, -10.0, machine.shape(p.rows.dtype))
    assert relative(got["row_loss"], want["row_loss"]) < logit_error(case)
    assert relative(got["row_sigmoid_sum"], want["row_sigmoid_sum"]) < logit_error(case)
    check_weights(case, got["out"], want["out"])


def test_sigmoid_of_very_negative_logits_keeps_its_digits(machine: Machine) -> None:
    case = Case(70, 70, 64, "bf16", scale=10.0, aligned=1)
    p = problem(case)
    got, want = machine.sigmoid(p, -25.0), cases.sigmoid(p, -25.0, machine.shape(p.rows.dtype))
    assert want["row_loss"].max() < 1e-9
    assert relative(got["row_loss"], want["row_loss"]) < logit_error(case)


def test_sigmoid_without_gradients_writes_the_loss_alone(machine: Machine) -> None:
    case = Case(60, 150, 24, "fp16", vectors=False)
    p = problem(case)
    got = machine.sigmoid(p, -10.0, gradients=False)
    assert list(got) == ["row_loss"]
    assert relative(got["row_loss"], cases.sigmoid(p, -10.0, machine.shape(p.rows.dtype))["row_loss"]) < logit_error(case)


@pytest.mark.parametrize("dtype", cases.DTYPES)
def test_an_infinite_shift_means_that_another_path_serves(machine: Machine, dtype: str) -> None:
    p = problem(Case(130, 140, 16, dtype))
    assert all((x == 0).all() for x in machine.exp_sums(p, math.inf).values())
    assert machine.softmax_weights(p, math.inf).isnan().all()  # untouched


def test_not_a_number_stays_in_its_row_and_column(machine: Machine) -> None:
    p = problem(Case(140, 150, 16, "bf16", excluded=1))
    p.rows[3, 5] = math.nan
    sums = machine.exp_sums(p, 0.0)
    assert sums["row_sum"][:, 3].isnan().all()
    assert sums["row_sum"].isnan().sum() == sums["row_sum"].shape[0]
    assert sums["col_sum"][0].isnan().sum() >= p.cols.shape[0] - 1  # but where the pair is excluded


def test_the_order_of_threads_does_not_change_a_bit(program: Path) -> None:
    p = problem(Case(130, 137, 72, "bf16", excluded=2))
    for capability in ARCHITECTURES:
        results = [Machine(program, capability, descending=d, lazy=d).exp_sums(p, 0.0) for d in (False, True)]
        for name, x in results[0].items():
            assert torch.equal(x, results[1][name]), name
