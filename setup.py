"""Build the optional extensions; everything else about the package is in pyproject.toml.

Without torch in the build environment, or without a compiler, the package installs all the same and the
`torch` backend serves; `python -m clipfast doctor` says what is missing.

CLIPFAST_BUILD_CPU, CLIPFAST_BUILD_CUDA   0 skips that extension, 1 turns a failed build into an error. By default the CPU
                                          extension is tried always, and CUDA's where nvcc is found and torch is a CUDA build.
TORCH_CUDA_ARCH_LIST                      compute capabilities such as "8.0;9.0a;10.0+PTX". 9.0 is built as 9.0a, for wgmma.
CUDA_HOME, MAX_JOBS                       where the CUDA toolkit is; how many files are compiled at once.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from setuptools import Extension, find_packages, setup

WANTED = {"cpu": os.environ.get("CLIPFAST_BUILD_CPU", "auto"), "cuda": os.environ.get("CLIPFAST_BUILD_CUDA", "auto")}
TARGET = "-DTORCH_TARGET_VERSION=0x020a000000000000"

CPU_SOURCES = [f"csrc/cpu/{name}.cpp" for name in ("operators", "single", "isa_portable", "isa_avx2", "isa_avx512")]
CPU_FLAGS = [
    "-O3",
    "-fopenmp-simd",
    "-ffp-contract=fast",
    "-fno-math-errno",
    "-fno-trapping-math",
    "-fvisibility=hidden",
    "-Wno-unknown-pragmas",
    TARGET,
]

CUDA_SOURCES = [f"csrc/cuda/{name}" for name in ("exp_sums.cu", "softmax_weights.cu", "sigmoid.cu", "host.cu", "operators.cpp")]
CUDA_FLAGS = ["-std=c++17", "-O3", "-Xcompiler=-fPIC,-fvisibility=hidden,-Wno-unknown-pragmas", TARGET]
CUDA_ARCHITECTURES = "8.0+PTX;9.0a;10.0"  # PTX for 8.0 serves whatever comes later


def give_up(kind: str, reason: object) -> None:
    if WANTED[kind] == "1":
        raise SystemExit(f"clipfast: CLIPFAST_BUILD_{kind.upper()}=1, but the {kind} extension cannot be built: {reason}")
    print(f"clipfast: installing without the {kind} extension: {reason}", file=sys.stderr)


def nvcc() -> str | None:
    homes = [os.environ.get("CUDA_HOME"), os.environ.get("CUDA_PATH")]
    found = [shutil.which("nvcc", path=str(Path(home) / "bin")) for home in homes if home]
    return next(filter(None, [*found, shutil.which("nvcc"), shutil.which("nvcc", path="/usr/local/cuda/bin")]), None)


def architecture_flags() -> list[str]:
    """nvcc's options for TORCH_CUDA_ARCH_LIST; architectures too old for the kernels are left out."""
    flags, wanted = [], os.environ.get("TORCH_CUDA_ARCH_LIST", CUDA_ARCHITECTURES)
    for entry in wanted.replace(";", " ").split():
        version, _, ptx = entry.partition("+")
        number = "".join(c for c in version if c.isdigit()) + version[-1:] * version[-1:].isalpha()
        if not number[:2].isdigit():
            raise ValueError(
                f"TORCH_CUDA_ARCH_LIST must hold compute capabilities; got {entry!r}; use numbers such as 8.0 or 9.0a"
            )
        number = "90a" if number == "90" else number
        if int("".join(c for c in number if c.isdigit())) >= 80:
            kinds = ["sm", "compute"] if ptx else ["sm"]
            flags += [f"-gencode=arch=compute_{number},code={kind}_{number}" for kind in kinds]
    if not flags:
        raise ValueError(f"TORCH_CUDA_ARCH_LIST must name a compute capability from 8.0 on, for the kernels; got {wanted!r}")
    return [*flags, *(["-DCLIPFAST_SM90A"] if any("90a" in flag for flag in flags) else [])]


def run(command: list[str], what: str) -> None:
    done = subprocess.run(command, check=False)
    if done.returncode:
        raise RuntimeError(f"{command[0]} failed on {what} with exit status {done.returncode}")


def build_cuda(target: Path, objects: Path) -> None:
    """Compile with nvcc alone: torch's own helpers refuse beside a CPU build of torch, which the extension does not mind."""
    from torch.utils.cpp_extension import include_paths, library_paths

    compiler = nvcc()
    if compiler is None:
        raise RuntimeError("nvcc was not found (set CUDA_HOME)")
    flags = [*CUDA_FLAGS, *architecture_flags(), *(f"-I{path}" for path in include_paths())]
    libraries = [f"-L{path}" for path in library_paths()]
    objects.mkdir(parents=True, exist_ok=True)
    target.parent.mkdir(parents=True, exist_ok=True)
    outputs = [str(objects / f"cuda_{Path(source).stem}.o") for source in CUDA_SOURCES]
    commands = [[compiler, *flags, "-o", out, "-c", source] for source, out in zip(CUDA_SOURCES, outputs, strict=True)]
    with ThreadPoolExecutor(int(os.environ.get("MAX_JOBS") or os.cpu_count() or 1)) as pool:
        list(pool.map(run, commands, CUDA_SOURCES))
    link = [compiler, "-shared", "-cudart=static", *outputs, *libraries, "-ltorch_cpu", "-lc10", "-ldl", "-o", str(target)]
    run(link, "the link")


def wants_cuda(torch_version: str | None) -> bool:
    return WANTED["cuda"] == "1" or (WANTED["cuda"] != "0" and torch_version is not None and nvcc() is not None)


def extensions() -> dict:
    """setup()'s arguments for the extensions that are wanted and can be tried."""
    if WANTED["cpu"] == "0" and WANTED["cuda"] == "0":
        return {}
    try:
        import torch
        from torch.utils.cpp_extension import CppExtension
    except ImportError as error:
        for kind, wanted in WANTED.items():
            if wanted == "1" or kind == "cpu":
                give_up(kind, f"{error} (install torch first and pass --no-build-isolation)")
        return {}
    modules = []
    if WANTED["cpu"] != "0":
        modules.append(
            CppExtension("clipfast.compute._cpu", CPU_SOURCES, extra_compile_args={"cxx": CPU_FLAGS}, py_limited_api=True)
        )
    if wants_cuda(torch.version.cuda):
        # Only the .cpp is named as a source: at the sight of a .cu, torch's helper insists on a CUDA build of torch.
        modules.append(Extension("clipfast.compute._cuda", CUDA_SOURCES[-1:], depends=CUDA_SOURCES, py_limited_api=True))
    return {"ext_modules": modules, "cmdclass": {"build_ext": build_command()}}


def build_command() -> type:
    """build_ext that goes on without an extension whose build fails."""
    from torch.utils.cpp_extension import BuildExtension

    class OptionalBuild(BuildExtension):
        def run(self) -> None:
            try:
                super().run()
            except Exception as error:  # a missing or failing compiler raises many kinds
                for kind in ("cpu", "cuda"):
                    if any(e.name == f"clipfast.compute._{kind}" for e in self.extensions):
                        give_up(kind, error)
                self.extensions = []

        def build_extensions(self) -> None:
            self.failed: list[Extension] = []
            super().build_extensions()
            self.extensions = [e for e in self.extensions if e not in self.failed]

        def build_extension(self, ext: Extension) -> None:
            kind = ext.name.rpartition("_")[2]
            try:
                if kind == "cuda":
                    build_cuda(Path(self.get_ext_fullpath(ext.name)).resolve(), Path(self.build_temp).resolve())
                else:
                    super().build_extension(ext)
            except Exception as error:
                give_up(kind, error)
                self.failed.append(ext)

    return OptionalBuild


built = extensions()
# kernels/ is imported as clipfast.kernels: a top-level package of that name would collide with others.
setup(
    packages=[*find_packages(include=["clipfast*"]), "clipfast.kernels"],
    package_dir={"clipfast.kernels": "kernels"},
    **built,
    options={"bdist_wheel": {"py_limited_api": "cp310"}} if built.get("ext_modules") else {},
)
