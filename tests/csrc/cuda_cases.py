"""Problems for the CUDA tile operations and their dense definitions in float64, for the emulation's tests and the GPU's."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

LOG2E = 1 / math.log(2)
DTYPES = {"bf16": torch.bfloat16, "fp16": torch.float16, "tf32": torch.float32}
ROUNDING = {torch.bfloat16: 2.0**-8, torch.float16: 2.0**-11, torch.float32: 2.0**-20}
"""Largest relative error of a stored weight: the rounding to the dtype; for float32, that of the arithmetic."""


@dataclass(frozen=True)
class Case:
    """One tile: its shape, dtype and what is given with it."""

    m: int
    n: int
    d: int
    dtype: str
    scale: float = 14.3
    norms: bool = True  # normalised features: inverse norms of the columns, inner norms for the weights
    padding: int = 0  # elements between a row's end and the next row
    excluded: int = 1  # columns excluded per row
    first_col: int = 0
    aligned: int = 0  # 1: cosines near 1 with the positive and near -1 elsewhere, as in a converged model
    vectors: bool = True  # column sums and maxima; upstream gradients of the rows

    def __str__(self) -> str:
        numbers = {"s": self.scale, "pad": self.padding, "x": self.excluded, "c0_": self.first_col}
        extras = [f"{name}{value}" for name, value in numbers.items() if value]
        flags = [name for name, on in (("raw", not self.norms), ("converged", self.aligned), ("bare", not self.vectors)) if on]
        return "-".join([f"{self.m}x{self.n}x{self.d}", self.dtype, *extras, *flags])


CASES = [
    *(Case(130, 137, 72, dtype, excluded=2, first_col=40) for dtype in DTYPES),  # every edge ragged
    *(Case(1, 1, 8, dtype, excluded=1) for dtype in DTYPES),
    Case(128, 256, 64, "bf16"),  # nothing ragged
    Case(40, 300, 200, "bf16", scale=100.0, padding=24),
    Case(257, 33, 16, "fp16", scale=2.0, norms=False, vectors=False),
    Case(129, 260, 36, "tf32", scale=100.0, padding=4, excluded=2),
    Case(90, 140, 136, "bf16", scale=20.0, aligned=1),
    Case(300, 270, 264, "bf16", excluded=2),  # more steps than stages, several blocks
    Case(1100, 150, 8, "fp16", scale=4.0),  # two groups of the raster
]


@dataclass
class Problem:
    """Inputs of the operators; ``logits`` are their logits in float64, without bias or shift."""

    rows: Tensor  # (m, d), a view with any row stride
    cols: Tensor  # (n, d)
    row_scale: Tensor  # (m,) float64, natural units
    col_inverse_norm: Tensor | None  # (n,) float32
    row_inner: Tensor | None  # (m,) float32
    excluded: Tensor  # (m, E) int64
    u: Tensor  # (m,) float32
    v: Tensor  # (n,) float32
    upstream: Tensor | None  # (m,) float32
    first_col: int

    def logits(self) -> Tensor:
        """(m, n) float64, -inf where excluded. float32 features count as the TF32 numbers that the tensor cores get."""
        z = seen(self.rows) @ seen(self.cols).T
        if self.col_inverse_norm is not None:
            z *= self.col_inverse_norm.double()
        z *= self.row_scale.unsqueeze(1)
        columns = torch.arange(z.shape[1], device=z.device) + self.first_col
        for k in range(self.excluded.shape[1]):
            z[self.excluded[:, k : k + 1] == columns] = -math.inf
        return z

    def weighted(self, w: Tensor) -> Tensor:
        """``w`` times the inner norms of its rows and columns."""
        if self.row_inner is None or self.col_inverse_norm is None:
            return w
        return w * self.row_inner.double().unsqueeze(1) * self.col_inverse_norm.double()


def problem(case: Case) -> Problem:
    """Random features of the case's regime; the same on every call."""
    g = torch.Generator().manual_seed(case.m * 7919 + case.n * 31 + case.d)
    rows, cols = torch.randn(case.m, case.d, generator=g), torch.randn(case.n, case.d, generator=g)
    if case.aligned:
        direction = torch.randn(case.d, generator=g)
        rows, cols = direction + 0.3 * rows, -direction + 0.3 * cols
    else:
        size = case.d**-0.25 if not case.norms else 1.0
        rows, cols = rows * size, cols * size
    rows, cols = (_strided(x.to(DTYPES[case.dtype]), case.padding) for x in (rows, cols))
    a, b = (1 / seen(x).norm(dim=1) for x in (rows, cols))
    own = torch.arange(case.m).unsqueeze(1) % case.n
    second = torch.randint(-1, case.n, (case.m, 1), generator=g)
    excluded = torch.cat([own, second], 1)[:, : case.excluded] + case.first_col
    excluded[:: max(3, case.m // 4)] = -1  # rows without any
    return Problem(
        rows,
        cols,
        case.scale * (a if case.norms else torch.ones_like(a)),
        b.float() if case.norms else None,
        a.float() if case.norms else None,
        excluded.contiguous(),
        torch.rand(case.m, generator=g),
        torch.rand(case.n, generator=g) * 0.5,
        torch.rand(case.m, generator=g) if case.vectors else None,
        case.first_col,
    )


def seen(x: Tensor) -> Tensor:
    """``x`` in float64 as the tensor cores see it: float32 rounded to TF32's 10 bits, ties away from zero."""
    if x.dtype != torch.float32:
        return x.double()
    return ((x.contiguous().view(torch.int32) + 0x1000) & ~0x1FFF).view(torch.float32).double()


def _strided(x: Tensor, padding: int) -> Tensor:
    wide = torch.full((x.shape[0], x.shape[1] + padding), math.nan, dtype=x.dtype)
    wide[:, : x.shape[1]] = x
    return wide[:, : x.shape[1]]


def blocks(count: int, block: int) -> int:
    return -(-count // block)


def exp_sums(p: Problem, shift_log2: float, shape: tuple[int, int]) -> dict[str, Tensor]:
    """Partial sums and maxima of ``exp2(z_log2 - shift_log2)`` over blocks of ``shape`` (rows, columns)."""
    e = torch.exp2(p.logits() * LOG2E - shift_log2)
    rows, cols = _parts(e, shape[1], 1), _parts(e, shape[0], 0)
    return {"row_sum": rows.sum(-1), "col_sum": cols.sum(-1), "row_max": rows.amax(-1), "col_max": cols.amax(-1)}


def softmax_weights(p: Problem, shift_log2: float) -> Tensor:
    e = torch.exp2(p.logits() * LOG2E - shift_log2)
    return p.weighted(e * (p.u.double().unsqueeze(1) + p.v.double()))


def sigmoid(p: Problem, bias: float, shape: tuple[int, int]) -> dict[str, Tensor]:
    z = p.logits() + bias
    weights = z.sigmoid() if p.upstream is None else z.sigmoid() * p.upstream.double().unsqueeze(1)
    softplus = z.clamp_min(0) + torch.log1p(torch.exp(-z.abs()))
    return {
        "row_loss": _parts(softplus, shape[1], 1).sum(-1),
        "row_sigmoid_sum": _parts(z.sigmoid(), shape[1], 1).sum(-1),
        "out": p.weighted(weights),
    }


def _parts(x: Tensor, block: int, dim: int) -> Tensor:
    """(blocks, lines, block): each line's entries in blocks, zeros beyond the end."""
    x = x if dim == 1 else x.T
    whole = F.pad(x, (0, blocks(x.shape[1], block) * block - x.shape[1]))
    return whole.view(x.shape[0], -1, block).transpose(0, 1)


def relative(got: Tensor, want: Tensor) -> float:
    """Largest error, each relative to its own value: nothing hides behind a larger neighbour."""
    assert got.shape == want.shape, (got.shape, want.shape)
    error = (got.double() - want).abs() / want.abs().clamp_min(1e-30)
    return float(torch.where(got.double() == want, 0.0, error).max())


def logit_error(case: Case) -> float:
    """Bound of the logit's error in float32 arithmetic, which exp turns into a relative one."""
    return 2.0**-23 * (6 * case.scale + 24) + 1e-6


def shift_of(case: Case) -> float:
    """Base 2; keeps the largest exponential near 2^30 for a scale of 100."""
    return max(0.0, math.ceil(case.scale / math.log(2)) - 30.0)


def check_weights(case: Case, got: Tensor, want: Tensor, slack: float = 1.0) -> None:
    """Rounded once to the dtype, or below its smallest normal number; the padding of the rows untouched."""
    inside, beyond = got[:, : case.n].double(), got[:, case.n :]
    assert beyond.isnan().all()
    info = torch.finfo(got.dtype)
    tiny = max(info.smallest_normal * info.eps, 2.0**-126)  # the last place of subnormal numbers; exp2 flushes float32's to 0
    allowed = want.abs() * (ROUNDING[got.dtype] + slack * logit_error(case)) + tiny
    assert ((inside - want).abs() <= allowed).all(), float(((inside - want).abs() / allowed).max())
    assert (inside[want == 0] == 0).all()
