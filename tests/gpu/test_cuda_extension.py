"""The CUDA tile operations on a GPU, against dense definitions in float64: the emulation's grid, and what only a GPU has."""

from __future__ import annotations

import math
import sys
from pathlib import Path

import pytest
import torch
from torch import Tensor

from clipfast.compute import cuda_kernels, native
from clipfast.kernels.launch_records import Inner, Scores

sys.path.insert(0, str(Path(__file__).parents[1] / "csrc"))

import cuda_cases as cases
from cuda_cases import Case, Problem, blocks, check_weights, logit_error, problem, relative, shift_of


def _reason() -> str | None:
    if not torch.cuda.is_available():
        return "no CUDA device"
    if torch.cuda.get_device_capability() < (8, 0):
        return "the CUDA kernels need compute capability 8.0"
    return native.load_error("cuda")


pytestmark = pytest.mark.skipif(_reason() is not None, reason=str(_reason()))

SLACK = 8.0  # beyond the emulation's bounds: the tensor cores' own rounding of their sums, and ex2.approx
LARGE = [Case(1000, 3001, d, dtype, excluded=2) for d in (64, 512, 776) for dtype in cases.DTYPES]


def _shape(p: Problem) -> tuple[int, int]:
    return cuda_kernels.block_shape(p.rows.cuda())


def _gpu(x: Tensor | None) -> Tensor | None:
    """On the GPU with the same strides."""
    if x is None or x.is_contiguous():
        return None if x is None else x.cuda()
    wide = torch.full((x.shape[0], x.stride(0)), math.nan, dtype=x.dtype, device="cuda")
    wide[:, : x.shape[1]] = x.cuda()
    return wide[:, : x.shape[1]]


def _scores(p: Problem, log2: bool = False) -> Scores:
    rows, cols, row_scale, excluded = _gpu(p.rows), _gpu(p.cols), _gpu(p.row_scale), _gpu(p.excluded)
    row_scale = row_scale / math.log(2) if log2 else row_scale
    return Scores(rows, cols, row_scale, _gpu(p.col_inverse_norm), excluded, p.first_col)


def _inner(p: Problem) -> Inner:
    return Inner(_gpu(p.row_inner), None if p.row_inner is None else _gpu(p.col_inverse_norm))


def _scalar(x: float) -> Tensor:
    return torch.tensor(x, dtype=torch.float64, device="cuda")


def _empty(*shape: int, dtype: torch.dtype = torch.float32) -> Tensor:
    return torch.full(shape, math.nan, dtype=dtype, device="cuda")


class ExpSums:
    """One call's tensors, so that it can be repeated, captured, or moved to another stream."""

    def __init__(self, p: Problem, shift_log2: float) -> None:
        (bm, bn), m, n = _shape(p), p.rows.shape[0], p.cols.shape[0]
        self.scores, self.shift_log2 = _scores(p, log2=True), _scalar(shift_log2)
        row, col = _empty(blocks(n, bn), m), _empty(blocks(m, bm), n)
        self.out = {"row_sum": row, "col_sum": col, "row_max": row.clone(), "col_max": col.clone()}

    def __call__(self) -> dict[str, Tensor]:
        cuda_kernels.exp_sums(self.scores, self.shift_log2, *self.out.values())
        return self.out


def _softmax_weights(p: Problem, shift_log2: float, padding: int = 0) -> Tensor:
    wide = _empty(p.rows.shape[0], p.cols.shape[0] + padding, dtype=p.rows.dtype)
    out = wide[:, : p.cols.shape[0]]
    cuda_kernels.softmax_weights(_scores(p, log2=True), _scalar(shift_log2), p.u.cuda(), p.v.cuda(), _inner(p), out)
    return wide.cpu()


def _sigmoid(p: Problem, bias: float, padding: int = 0) -> dict[str, Tensor]:
    (_, bn), m, n = _shape(p), p.rows.shape[0], p.cols.shape[0]
    out = {"row_loss": _empty(blocks(n, bn), m), "row_sigmoid_sum": _empty(blocks(n, bn), m)}
    wide = _empty(m, n + padding, dtype=p.rows.dtype)
    cuda_kernels.sigmoid(_scores(p), _scalar(bias), _gpu(p.upstream), _inner(p), *out.values(), wide[:, :n])
    return {name: x.cpu() for name, x in (out | {"out": wide}).items()}


@pytest.mark.parametrize("case", [*cases.CASES, *LARGE], ids=str)
def test_exp_sums(case: Case) -> None:
    p = problem(case)
    want = cases.exp_sums(p, shift_of(case), _shape(p))
    for name, x in ExpSums(p, shift_of(case))().items():
        assert relative(x.cpu(), want[name]) < SLACK * logit_error(case), name


@pytest.mark.parametrize("case", [*cases.CASES, *LARGE], ids=str)
def test_softmax_weights(case: Case) -> None:
    p = problem(case)
    got = _softmax_weights(p, shift_of(case), case.padding)
    check_weights(case, got, cases.softmax_weights(p, shift_of(case)), SLACK)


@pytest.mark.parametrize("case", [*cases.CASES, *LARGE], ids=str)
def test_sigmoid(case: Case) -> None:
    p = problem(case)
    got, want = _sigmoid(p, -10.0, case.padding), cases.sigmoid(p, -10.0, _shape(p))
    assert relative(got["row_loss"], want["row_loss"]) < SLACK * logit_error(case)
    assert relative(got["row_sigmoid_sum"], want["row_sigmoid_sum"]) < SLACK * logit_error(case)
    check_weights(case, got["out"], want["out"], SLACK)


@pytest.mark.parametrize("dtype", cases.DTYPES)
def test_an_infinite_shift_means_that_another_path_serves(dtype: str) -> None:
    p = problem(Case(130, 140, 16, dtype))
    assert all((x == 0).all() for x in ExpSums(p, math.inf)().values())
    assert _softmax_weights(p, math.inf).isnan().all()


@pytest.mark.parametrize("dtype", cases.DTYPES)
def test_a_second_run_gives_the_same_bits(dtype: str) -> None:
    call = ExpSums(problem(Case(3000, 5000, 128, dtype)), 0.0)
    first = {name: x.clone() for name, x in call().items()}
    for _ in range(10):
        assert all(torch.equal(x, first[name]) for name, x in call().items())


def test_nothing_waits_for_the_device_and_a_graph_can_be_captured() -> None:
    call = ExpSums(problem(Case(300, 700, 64, "bf16")), 0.0)
    want = {name: x.clone() for name, x in call().items()}
    torch.cuda.set_sync_debug_mode("error")
    try:
        call()
    finally:
        torch.cuda.set_sync_debug_mode("default")
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        call()
    for x in call.out.values():
        x.fill_(math.nan)
    graph.replay()
    assert all(torch.equal(x, want[name]) for name, x in call.out.items())


def test_kernels_run_on_the_current_stream() -> None:
    call = ExpSums(problem(Case(300, 700, 64, "bf16")), 0.0)
    want = {name: x.clone() for name, x in call().items()}
    stream = torch.cuda.Stream()
    torch.cuda.synchronize()
    with torch.cuda.stream(stream):
        torch.cuda._sleep(100_000_000)  # work on another stream would overtake this and be overwritten
        for x in call.out.values():
            x.fill_(math.nan)
        call()
    stream.synchronize()
    assert all(torch.equal(x, want[name]) for name, x in call.out.items())


def test_offsets_beyond_32_bits() -> None:
    d, n = 1024, 300
    m = 2**31 // d + 200
    if torch.cuda.mem_get_info()[0] < 12 << 30:
        pytest.skip("needs 12 GiB of GPU memory")
    case = Case(200, n, d, "bf16")
    p = problem(case)
    rows = torch.zeros(m, d, dtype=torch.bfloat16, device="cuda")
    rows[-200:] = p.rows.cuda()
    out = torch.empty(m, n, dtype=torch.bfloat16, device="cuda")
    whole = [torch.zeros(m, dtype=dtype, device="cuda") for dtype in (torch.float64, torch.float32, torch.float32)]
    for vector, part in zip(whole, (p.row_scale / math.log(2), p.row_inner, p.u), strict=True):
        assert part is not None
        vector[-200:] = part.cuda()
    excluded = torch.full((m, 1), -1, dtype=torch.int64, device="cuda")
    excluded[-200:] = p.excluded.cuda()
    row_scale_log2, row_inner, u = whole
    col_inverse_norm = _gpu(p.col_inverse_norm)
    scores = Scores(rows, p.cols.cuda(), row_scale_log2, col_inverse_norm, excluded, 0)
    cuda_kernels.softmax_weights(scores, _scalar(0.0), u, p.v.cuda(), Inner(row_inner, col_inverse_norm), out)
    check_weights(case, out[-200:].cpu(), cases.softmax_weights(p, 0.0), SLACK)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda rows: rows[:, :9].contiguous(), "multiples of 16 bytes"),
        (lambda rows: rows[:, 1:9], "multiples of 16 bytes"),
        (lambda rows: rows.double(), "bfloat16, float16 or float32"),
        (lambda rows: rows.T.contiguous().T, "unit stride"),
    ],
    ids=["width", "address", "dtype", "stride"],
)
def test_features_that_cannot_be_served(change, message: str) -> None:
    call = ExpSums(problem(Case(130, 140, 16, "bf16")), 0.0)
    call.scores = call.scores._replace(rows=change(call.scores.rows), cols=change(call.scores.cols))
    with pytest.raises(RuntimeError, match=message):
        call()
