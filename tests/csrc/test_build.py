"""The CUDA extension compiled for every default architecture, beside any build of torch: registers, spills, instructions."""

from __future__ import annotations

import importlib.util
import os
import re
import shutil
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

import pytest

from clipfast.compute import native

ROOT = Path(__file__).parents[2]
KERNELS = ("exp_sums_kernel", "softmax_weights_kernel", "sigmoid_kernel")
ALLOWED_SPILLS = {"sm_100": 4}  # bytes; one register of the sigmoid kernel, parked during the products

needs_nvcc = pytest.mark.skipif(
    shutil.which("nvcc", path=os.environ.get("PATH", "") + ":/usr/local/cuda/bin") is None, reason="nvcc is not installed"
)


@dataclass
class Build:
    library: Path
    log: str


@pytest.fixture(scope="session")
def built(tmp_path_factory: pytest.TempPathFactory) -> Build:
    folder = tmp_path_factory.mktemp("cuda_build")
    environment = os.environ | {
        "CLIPFAST_BUILD_CPU": "0",
        "CLIPFAST_BUILD_CUDA": "1",
        "NVCC_APPEND_FLAGS": "-Xptxas=-v",
        "MAX_JOBS": os.environ.get("MAX_JOBS", "2"),
    }
    environment.pop("TORCH_CUDA_ARCH_LIST", None)
    command = [sys.executable, "setup.py", "build_ext", "--build-lib", str(folder), "--build-temp", str(folder / "objects")]
    done = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout[-2000:] + done.stderr[-4000:]
    return Build(next(folder.rglob("_cuda*.so")), done.stdout + done.stderr)


def resources(log: str) -> list[tuple[str, str, int, int]]:
    """(architecture, kernel, registers, bytes spilled) of every kernel that does something."""
    found = []
    pattern = (
        r"Compiling entry function '(\w+)' for '(\w+)'.*?"
        r"(\d+) bytes spill stores, (\d+) bytes spill loads.*?Used (\d+) registers"
    )
    for name, architecture, stores, loads, registers in re.findall(pattern, log, re.DOTALL):
        empty = "WgmmaGemm" in name and architecture != "sm_90a"
        if not empty:
            found.append((architecture, name, int(registers), int(stores) + int(loads)))
    return found


@needs_nvcc
def test_tile_kernels_do_not_spill(built: Build) -> None:
    found = resources(built.log)
    for architecture, per_kernel in (("sm_80", 3), ("sm_90a", 5), ("sm_100", 3)):  # dtypes, and the half dtypes with wgmma
        for kernel in KERNELS:
            assert sum(a == architecture and kernel in name for a, name, *_ in found) == per_kernel, (architecture, kernel)
    for architecture, name, registers, spilled in found:
        assert registers <= 255
        assert spilled <= 2 * ALLOWED_SPILLS.get(architecture, 0), (architecture, name, spilled)


@needs_nvcc
def test_the_compiler_does_not_serialise_wgmma(built: Build) -> None:
    assert "wgmma" in built.log.lower()  # the names of the kernels
    assert not re.search(r"serializ|C7510|C7508|setmaxnreg.*ignored", built.log)


def cuobjdump() -> str | None:
    triton = importlib.util.find_spec("triton")
    folders = [os.environ.get("PATH", ""), "/usr/local/cuda/bin"]
    if triton is not None and triton.submodule_search_locations:
        folders.append(str(Path(triton.submodule_search_locations[0]) / "backends" / "nvidia" / "bin"))
    return shutil.which("cuobjdump", path=":".join(folders))


@needs_nvcc
@pytest.mark.skipif(cuobjdump() is None, reason="no cuobjdump: neither a full CUDA toolkit nor Triton is installed")
@pytest.mark.parametrize(
    ("architecture", "instructions"),
    [("sm_80", ("HMMA", "LDGSTS", "LDSM")), ("sm_90a", ("HGMMA", "UTMALDG", "HMMA")), ("sm_100", ("HMMA", "LDGSTS", "LDSM"))],
)
def test_tensor_core_instructions(built: Build, architecture: str, instructions: tuple[str, ...]) -> None:
    command = [str(cuobjdump()), "-sass", "-arch", architecture, str(built.library)]
    sass = subprocess.run(command, capture_output=True, text=True, check=True).stdout
    for instruction in instructions:
        assert f" {instruction}." in sass, instruction


def _python(code: str, *arguments: str) -> str:
    done = subprocess.run([sys.executable, "-c", code, *arguments], capture_output=True, text=True, check=False, cwd=ROOT)
    assert done.returncode == 0, done.stderr[-3000:]
    return done.stdout.strip()


@needs_nvcc
def test_the_extension_loads_without_a_gpu(built: Build) -> None:
    code = """
import sys, pathlib, torch
from clipfast.compute import cuda_kernels, native
from clipfast.kernels.launch_records import Inner, Scores
print(native.load_error("cuda", pathlib.Path(sys.argv[1])))
print([list(torch.ops.clipfast_cuda.tile_shape(*key)) for key in ((80, 2), (90, 2), (90, 4), (100, 2))])
x = torch.zeros(4, 8)
scores, inner = Scores(x, x, x, None, x, 0), Inner(None, None)
for launcher, own in (
    (cuda_kernels.exp_sums, (x, x, None, None, None)),
    (cuda_kernels.softmax_weights, (x, x, x, inner, x)),
    (cuda_kernels.sigmoid, (x, None, inner, x, None, None)),
):
    try:
        launcher(scores, *own)
    except NotImplementedError as error:  # the arguments fit the operator's schema, and it has no kernel for the CPU
        print("CPU" in str(error))
"""
    lines = _python(code, str(built.library.parent)).splitlines()
    assert lines == ["None", "[[128, 128], [128, 256], [128, 128], [128, 128]]", "True", "True", "True"]


def test_a_missing_extension_says_how_to_get_it(tmp_path: Path) -> None:
    assert "nvcc" in str(native.load_error("cuda", tmp_path))


def test_a_broken_extension_says_what_is_wrong(tmp_path: Path) -> None:
    (tmp_path / "_cuda.abi3.so").write_bytes(b"not a library")
    assert "_cuda.abi3.so does not load" in str(native.load_error("cuda", tmp_path))


@pytest.mark.parametrize(
    ("architectures", "message"), [("Ampere", "use numbers"), ("7.0;7.5", "from 8.0 on")], ids=["a name", "too old"]
)
def test_architectures_that_cannot_be_built(tmp_path: Path, architectures: str, message: str) -> None:
    environment = os.environ | {"CLIPFAST_BUILD_CPU": "0", "CLIPFAST_BUILD_CUDA": "1", "TORCH_CUDA_ARCH_LIST": architectures}
    environment |= {"CUDA_HOME": str(_pretended_nvcc(tmp_path))}
    command = [
        sys.executable,
        "setup.py",
        "-q",
        "build_ext",
        "--build-lib",
        str(tmp_path / "lib"),
        "--build-temp",
        str(tmp_path),
    ]
    done = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode != 0
    assert "CLIPFAST_BUILD_CUDA=1, but the cuda extension cannot be built" in done.stderr
    assert message in done.stderr


def _pretended_nvcc(folder: Path) -> Path:
    """A toolkit whose nvcc always fails: for errors that come before a compilation."""
    (folder / "bin").mkdir()
    nvcc = folder / "bin" / "nvcc"
    nvcc.write_text("#!/bin/sh\nexit 1\n")
    nvcc.chmod(0o755)
    return folder
