"""Build the optional CPU extension; everything else about the package is in pyproject.toml.

Without torch in the build environment, or without a compiler, the package installs all the same and the
`torch` backend serves; `python -m clipfast doctor` says what is missing. `CLIPFAST_BUILD_CPU=0` skips the
extension, `CLIPFAST_BUILD_CPU=1` turns a failed build into an error.
"""

import os
import sys

from setuptools import setup

WANTED = os.environ.get("CLIPFAST_BUILD_CPU", "auto")
SOURCES = [f"csrc/cpu/{name}.cpp" for name in ("operators", "single", "isa_portable", "isa_avx2", "isa_avx512")]
FLAGS = [
    "-O3",
    "-fopenmp-simd",
    "-ffp-contract=fast",
    "-fno-math-errno",
    "-fno-trapping-math",
    "-fvisibility=hidden",
    "-Wno-unknown-pragmas",
    "-DTORCH_TARGET_VERSION=0x020a000000000000",
]


def give_up(reason: object) -> None:
    if WANTED == "1":
        raise SystemExit(f"clipfast: CLIPFAST_BUILD_CPU=1, but the CPU extension cannot be built: {reason}")
    print(f"clipfast: installing without the CPU extension: {reason}", file=sys.stderr)


def extension() -> dict:
    if WANTED == "0":
        return {}
    try:
        from torch.utils.cpp_extension import BuildExtension, CppExtension
    except ImportError as error:
        give_up(f"{error} (install torch first and pass --no-build-isolation)")
        return {}

    class OptionalBuild(BuildExtension):
        def run(self) -> None:
            try:
                super().run()
            except Exception as error:  # a missing or failing compiler raises many kinds
                give_up(error)
                self.extensions = []

    module = CppExtension("clipfast._cpu", SOURCES, extra_compile_args={"cxx": FLAGS}, py_limited_api=True)
    return {"ext_modules": [module], "cmdclass": {"build_ext": OptionalBuild}}


setup(**extension(), options={"bdist_wheel": {"py_limited_api": "cp310"}} if WANTED != "0" else {})
