"""Every Triton kernel compiled ahead of time, without a GPU, and what the assembler made of it."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("triton")

SHARED_LIMIT = {80: 163 * 1024, 90: 227 * 1024, 100: 227 * 1024}
TENSOR_CORES = {80: "HMMA", 90: "HGMMA", 100: "UTCHMMA"}  # what mma.sync, wgmma and tcgen05.mma are assembled to
TILE_KERNELS = ("exp_sums_kernel", "softmax_weights_kernel", "sigmoid_kernel")


@pytest.fixture(scope="module", params=[80, 90, 100], ids=lambda arch: f"sm_{arch}")
def kernels(request: pytest.FixtureRequest) -> tuple[int, list[dict[str, Any]]]:
    """In a process of its own: in this one the kernels may have been imported for the interpreter."""
    environment = {k: v for k, v in os.environ.items() if k != "TRITON_INTERPRET"}
    program = Path(__file__).with_name("compile_kernels.py")
    done = subprocess.run(
        [sys.executable, program, str(request.param)], capture_output=True, text=True, env=environment, check=False
    )
    assert done.returncode == 0, done.stderr[-4000:]
    return request.param, json.loads(done.stdout)


def test_all_kernels_compile(kernels: tuple[int, list[dict[str, Any]]]) -> None:
    names = {k["kernel"] for k in kernels[1]}
    others = {"exact_lse_kernel", "exact_weights_kernel", "row_norms_kernel", "paired_dots_kernel", "finish_rows_kernel"}
    assert names == {*TILE_KERNELS, *others}


def test_the_tile_kernels_spill_no_registers(kernels: tuple[int, list[dict[str, Any]]]) -> None:
    assert [k for k in kernels[1] if k["local_accesses"] and k["kernel"] in TILE_KERNELS] == []


def test_shared_memory_fits(kernels: tuple[int, list[dict[str, Any]]]) -> None:
    arch, found = kernels
    assert max(k["shared"] for k in found) <= SHARED_LIMIT[arch]


def test_tensor_cores_multiply(kernels: tuple[int, list[dict[str, Any]]]) -> None:
    """All but IEEE float32, which no tensor core has."""
    arch, found = kernels
    for k in found:
        if k["kernel"] in TILE_KERNELS:
            assert (k["instructions"][TENSOR_CORES[arch]] > 0) == (k["dtype"] != "fp32"), k


def test_loads_are_asynchronous(kernels: tuple[int, list[dict[str, Any]]]) -> None:
    """By TMA where it is asked for, else by cp.async."""
    for k in kernels[1]:
        if k["kernel"] in TILE_KERNELS:
            assert k["instructions"]["UTMALDG" if k["tma"] else "LDGSTS"] > 0, k
            assert k["instructions"]["LDGSTS" if k["tma"] else "UTMALDG"] == 0, k
