"""Compiles every Triton kernel ahead of time for one architecture and prints, as JSON, what the assembler made of each.

A program of its own, because Triton decides at import whether kernels are compiled or interpreted. No GPU is needed.
"""

from __future__ import annotations

import json
import re
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

import torch
import triton
from triton.backends.compiler import GPUTarget
from triton.compiler import ASTSource

from clipfast.kernels import exact_lse, exact_weights, exp_sums, finish_rows, paired_dots, row_norms, sigmoid, softmax_weights
from clipfast.kernels.block_sizes import candidates

TYPES = {"bf16": torch.bfloat16, "fp16": torch.float16, "fp32": torch.float32, "tf32": torch.float32}
INTS = {
    "m",
    "n",
    "width",
    "first_col",
    "count",
    "row_stride",
    "col_stride",
    "out_stride",
    "alpha_stride",
    "x_stride",
    "y_stride",
    "stride",
}
DOUBLES = {
    "row_scale", "row_scale_log2", "shift_log2", "bias", "positive_pull", "projection", "alpha", "scale", "dots", "norm",
    "inverse_norm", "row_lse", "col_lse", "row_upstream", "col_upstream", "lse",
}  # fmt: skip
EXACT_DOUBLES = {"col_inverse_norm", "row_max"}  # float32 in the other kernels
INSTRUCTIONS = ("HMMA", "HGMMA", "UTCHMMA", "UTCQMMA", "UTMALDG", "LDGSTS", "DMMA", "UTCOMMA")


def signature(kernel: Any, dtype: str, tma: bool, absent: tuple[str, ...], constants: dict[str, Any]) -> dict[str, str]:
    """The type of every argument, by its name."""
    element = "fp32" if dtype == "tf32" else dtype
    found = {}
    for name in kernel.arg_names:
        if name in constants or name in absent:
            found[name] = "constexpr"
        elif name in INTS:
            found[name] = "i32"
        elif name in ("excluded", "partner"):
            found[name] = "*i64"
        elif name == "underflowed":
            found[name] = "*i1"
        elif name in ("rows", "cols") and tma:
            side = constants["BM" if name == "rows" else "BN"]
            found[name] = f"tensordesc<{element}[{side},{constants['BK']}]>"
        elif name in ("rows", "cols", "out", "x", "y"):
            found[name] = f"*{element}"
        elif name == "eps":
            found[name] = "fp32"
        elif name in DOUBLES or (name in EXACT_DOUBLES and "exact" in kernel.__name__):
            found[name] = "*fp64"
        else:
            found[name] = "*fp32"
    return found


def tile_constants(arch: int, dtype: str, tma: bool) -> tuple[dict[str, Any], dict[str, int]]:
    precision = "tf32" if dtype == "tf32" else "ieee"
    block = candidates(arch // 10, TYPES[dtype], precision)[0]
    constants = {
        "EXCLUDED": 1, "TMA": tma, "PRECISION": precision, "SPLIT": dtype in ("fp32", "tf32"), "BM": block.rows,
        "BN": block.cols, "BK": block.depth(TYPES[dtype].itemsize), "GROUP": block.group,
    }  # fmt: skip
    return constants, {"num_warps": block.warps, "num_stages": block.stages}


def cases(arch: int) -> Any:
    """(kernel, dtype, TMA, arguments that are None, constants, options) of everything that clipfast launches."""
    for dtype in TYPES:
        for tma in [False, True] if arch >= 90 else [False]:
            constants, options = tile_constants(arch, dtype, tma)
            for kernel, absent in (
                (exp_sums.exp_sums_kernel, ("row_max", "col_max")),
                (softmax_weights.softmax_weights_kernel, ()),
                (sigmoid.sigmoid_kernel, ("upstream",)),
            ):
                yield kernel, dtype, tma, absent, constants, options
    side = exact_lse.SIDE
    exact = {"EXCLUDED": 1, "BM": side, "BN": side, "BK": side}
    for dtype in ("bf16", "fp32"):
        yield exact_lse.exact_lse_kernel, dtype, False, (), exact, {"num_warps": 4}
        yield exact_weights.exact_weights_kernel, dtype, False, (), exact, {"num_warps": 4}
        for kernel in (row_norms.row_norms_kernel, paired_dots.paired_dots_kernel, finish_rows.finish_rows_kernel):
            yield kernel, dtype, False, (), {"B": 4, "BK": 1024}, {"num_warps": 4}


def sass_of(cubin: bytes) -> str:
    tool = Path(triton.__file__).parent / "backends" / "nvidia" / "bin" / "nvdisasm"
    with tempfile.NamedTemporaryFile(suffix=".cubin") as file:
        file.write(cubin)
        file.flush()
        return subprocess.run([tool, "-c", file.name], capture_output=True, text=True, check=True).stdout


def compiled(arch: int, kernel: Any, dtype: str, tma: bool, absent: tuple[str, ...], constants: dict, options: dict) -> dict:
    fixed = {**constants, **dict.fromkeys([name for name in absent if name in kernel.arg_names])}
    types = signature(kernel, dtype, tma, absent, constants)
    # What Triton finds out at a launch: tensors start at multiples of 16 bytes, and so do rows of a usual width.
    known = [n for n, t in types.items() if t.startswith("*") or n in ("width", "row_stride", "col_stride", "out_stride")]
    aligned = {(kernel.arg_names.index(n),): [["tt.divisibility", 16]] for n in known}
    source = ASTSource(kernel, types, fixed, aligned)
    result = triton.compile(source, target=GPUTarget("cuda", arch, 32), options=options)
    sass = sass_of(result.asm["cubin"])
    spills = len(re.findall(r"\b(?:STL|LDL)\b", sass))
    return {
        "kernel": kernel.__name__, "dtype": dtype, "tma": tma, "shared": result.metadata.shared, "local_accesses": spills,
        "instructions": {name: len(re.findall(rf"\b{name}\b", sass)) for name in INSTRUCTIONS},
    }  # fmt: skip


if __name__ == "__main__":
    print(json.dumps([compiled(int(sys.argv[1]), *case) for case in cases(int(sys.argv[1]))], indent=1))
