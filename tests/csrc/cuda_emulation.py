"""The emulation as a Python function: builds it once, runs one tile operation, returns what it wrote."""

from __future__ import annotations

import math
import os
import subprocess
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import torch
from cuda_cases import Problem, blocks
from torch import Tensor

ROOT = Path(__file__).parents[2]
SANITIZE = ["-fsanitize=address,undefined", "-fno-sanitize-recover=all"]
WARNINGS = ["-Wall", "-Wextra", "-Werror", "-Wno-unknown-pragmas"]
FLAGS = ["-std=c++17", "-O1", "-g", "-DCLIPFAST_EMULATION", "-DCLIPFAST_SM90A", *WARNINGS]
DTYPE_CODES = {torch.bfloat16: 0, torch.float16: 1, torch.float32: 2}
Arrays = dict[str, Tensor | None]


def build(folder: Path, source: Path = ROOT / "csrc") -> Path:
    """Compile the kernels and the emulation with the sanitizers on."""
    kernels = [source / "cuda" / f"{name}.cu" for name in ("exp_sums", "softmax_weights", "sigmoid")]
    files = [*kernels, source / "emulation" / "block.cpp", source / "emulation" / "main.cpp"]
    objects = [str(folder / f"{file.stem}.o") for file in files]
    commands = [
        ["g++", *FLAGS, *SANITIZE, "-x", "c++", "-c", str(file), "-o", out] for file, out in zip(files, objects, strict=True)
    ]
    with ThreadPoolExecutor(int(os.environ.get("MAX_JOBS") or 2)) as pool:
        list(pool.map(lambda command: subprocess.run(command, check=True), commands))
    subprocess.run(["g++", *SANITIZE, *objects, "-o", str(folder / "emulation")], check=True)
    return folder / "emulation"


@dataclass(frozen=True)
class Machine:
    """An emulated device and the order in which it does things (see csrc/emulation/block.h)."""

    program: Path
    capability: int = 80
    descending: bool = False
    lazy: bool = False
    processors: int = 1  # fewer than blocks, so that thread blocks that stay have several to do

    def shape(self, dtype: torch.dtype) -> tuple[int, int]:
        return (128, 256) if self.capability == 90 and dtype != torch.float32 else (128, 128)

    def exp_sums(self, p: Problem, shift_log2: float, vectors: bool = True) -> dict[str, Tensor]:
        (bm, bn), m, n = self.shape(p.rows.dtype), p.rows.shape[0], p.cols.shape[0]
        row, col = _poison(blocks(n, bn), m), _poison(blocks(m, bm), n)
        out = {"row_sum": row, "col_sum": col, "row_max": row.clone(), "col_max": col.clone()} if vectors else {"row_sum": row}
        p = _in_base2(p)
        return self._run("exp_sums", p, {"scalar": _scalar(shift_log2)}, {f"out_{name}": x for name, x in out.items()})

    def softmax_weights(self, p: Problem, shift_log2: float, padding: int = 0) -> Tensor:
        out = _poison(p.rows.shape[0], p.cols.shape[0] + padding, dtype=p.rows.dtype)
        inputs = {"scalar": _scalar(shift_log2), "u": p.u, "v": p.v}
        return self._run("softmax_weights", _in_base2(p), inputs, {"out": out})["out"]

    def sigmoid(self, p: Problem, bias: float, padding: int = 0, gradients: bool = True) -> dict[str, Tensor]:
        (_, bn), m, n = self.shape(p.rows.dtype), p.rows.shape[0], p.cols.shape[0]
        out = {"out_row_loss": _poison(blocks(n, bn), m)}
        if gradients:
            out |= {"out_row_sigmoid_sum": _poison(blocks(n, bn), m), "out": _poison(m, n + padding, dtype=p.rows.dtype)}
        inputs = {"scalar": _scalar(bias), "upstream": p.upstream}
        return self._run("sigmoid", p, inputs, out)

    def _run(self, operation: str, p: Problem, inputs: Arrays, outputs: dict[str, Tensor]) -> dict[str, Tensor]:
        size = p.rows.element_size()
        integers = {
            "capability": self.capability, "processors": self.processors,
            "descending": int(self.descending), "lazy": int(self.lazy), "dtype": DTYPE_CODES[p.rows.dtype],
            "m": p.rows.shape[0], "n": p.cols.shape[0], "width_bytes": p.rows.shape[1] * size,
            "row_stride": p.rows.stride(0) * size, "col_stride": p.cols.stride(0) * size, "first_col": p.first_col,
            "excluded_per_row": p.excluded.shape[1], "out_stride": outputs["out"].stride(0) * size if "out" in outputs else 0,
        }  # fmt: skip
        arrays = {
            "rows": p.rows, "cols": p.cols, "row_scale": p.row_scale, "col_inverse_norm": p.col_inverse_norm,
            "row_inner": p.row_inner, "col_inner": None if p.row_inner is None else p.col_inverse_norm,
            "excluded": p.excluded, **inputs, **outputs,
        }  # fmt: skip
        request = b"".join(f"int {name} {value}\n".encode() for name, value in integers.items())
        request += b"".join(_packed(name, x) for name, x in arrays.items() if x is not None)
        environment = os.environ | {"ASAN_OPTIONS": "detect_leaks=1:detect_stack_use_after_return=0"}
        request += f"run {operation}\n".encode()
        done = subprocess.run([self.program], input=request, capture_output=True, env=environment, check=False)
        assert done.returncode == 0, done.stderr.decode()[-4000:]
        results, conflicts = _unpacked(done.stdout, outputs)
        assert conflicts == 0, f"{conflicts} bank conflicts in ldmatrix"
        return results


def _scalar(x: float) -> Tensor:
    return torch.tensor([x], dtype=torch.float64)


def _poison(*shape: int, dtype: torch.dtype = torch.float32) -> Tensor:
    return torch.full(shape, math.nan, dtype=dtype)


def _in_base2(p: Problem) -> Problem:
    """The same problem with ``row_scale_log2`` for ``row_scale``."""
    return Problem(**{**vars(p), "row_scale": p.row_scale / math.log(2)})


def _packed(name: str, x: Tensor) -> bytes:
    """All bytes from the first element to the last, with what lies between the rows."""
    count = 1 + sum((size - 1) * stride for size, stride in zip(x.shape, x.stride(), strict=True))
    raw = x.as_strided((count,), (1,)).contiguous().view(torch.uint8).numpy().tobytes()
    return f"array {name} {len(raw)}\n".encode() + raw


def _unpacked(reply: bytes, outputs: dict[str, Tensor]) -> tuple[dict[str, Tensor], int]:
    results, at, conflicts = {}, 0, -1
    while at < len(reply):
        end = reply.index(b"\n", at)
        kind, name, value = reply[at:end].split()
        at = end + 1
        if kind == b"int":
            conflicts = int(value)
            continue
        like = outputs[name.decode()]
        raw = torch.frombuffer(bytearray(reply[at : at + int(value)]), dtype=like.dtype)
        results[name.decode().removeprefix("out_")] = raw.view(like.shape)
        at += int(value)
    return results, conflicts
