"""The operations on a GPU: one fused Triton kernel each (kernels/), the accumulating products on the library.

Features stay in their dtype, scores never reach memory, and nothing waits for the device. The kernels come with the backend
when it is made, so that this file needs no Triton.
"""

from __future__ import annotations

import math
import os
from collections.abc import Callable
from functools import cache
from typing import NamedTuple

import torch
from torch import Tensor

from clipfast.compute.backend_declaration import Declaration, Query
from clipfast.compute.gemm_cuda import DeviceGemm
from clipfast.kernels.launch_records import Inner, Scores
from clipfast.sweep.pairs import Pairs
from clipfast.sweep.row_operations import RowFinish
from clipfast.sweep.schedule import Tile
from clipfast.sweep.tile_operations import Backend, ExactLines, LineFactors, PartialSums, SigmoidRows, Workspace

TRITON_MINIMUM = (3, 4)


class RowKernels(NamedTuple):
    """``kernels/row_norms.py``, ``paired_dots.py``, ``finish_rows.py``."""

    row_norms: Callable[..., Tensor]
    paired_dots: Callable[..., Tensor]
    finish_rows: Callable[..., Tensor]


class TileKernels(NamedTuple):
    """The three tile kernels of one implementation, as launchers that take the records of ``kernels/launch_records.py``.

    ``blocks(features)``: rows and columns that share a partial sum.
    """

    exp_sums: Callable[..., None]
    softmax_weights: Callable[..., None]
    sigmoid: Callable[..., None]
    blocks: Callable[[Tensor], tuple[int, int]]


class TritonRows:
    def __init__(self, kernels: RowKernels) -> None:
        self.kernels = kernels

    def stored(self, features: Tensor) -> Tensor:
        return features if features.stride(1) == 1 and features.stride(0) > 0 else features.contiguous()

    def widened(self, rows: Tensor, cols: Tensor | None) -> tuple[Tensor, Tensor | None]:
        return rows, cols

    def norms(self, x: Tensor, eps: float) -> tuple[Tensor, Tensor, Tensor]:
        norm, inverse, projection = self.kernels.row_norms(x, eps)
        return norm, inverse, projection

    def paired_dots(self, x: Tensor, y: Tensor, partner: Tensor | None) -> Tensor:
        return self.kernels.paired_dots(x, y, partner)

    def finish_rows(self, grad: Tensor, finish: RowFinish, out: Tensor) -> Tensor:
        return self.kernels.finish_rows(grad, finish, out)


class TritonTiles:
    """A kernel leaves partial sums of its blocks, which are added up in a fixed order."""

    def __init__(self, kernels: TileKernels) -> None:
        self.kernels = kernels

    def exp_sums(self, pairs: Pairs, tile: Tile, shift_log2: Tensor, sums: PartialSums, workspace: Workspace) -> None:
        (m, n), (block_m, block_n) = tile.shape, self.kernels.blocks(pairs.rows.x)
        by_row = _partials(pairs, math.ceil(n / block_n), m, sums.row_max is not None)
        wanted = sums.col_sum is not None
        by_col = _partials(pairs, math.ceil(m / block_m), n, sums.col_max is not None) if wanted else (None, None)
        scores = _scores(pairs, tile, pairs.row_scale_log2)
        self.kernels.exp_sums(scores, shift_log2, by_row[0], by_col[0], by_row[1], by_col[1])
        _reduce(by_row, sums.row_sum[tile.rows], _cut(sums.row_max, tile.rows))
        _reduce(by_col, _cut(sums.col_sum, tile.cols), _cut(sums.col_max, tile.cols))

    def weights(self, pairs: Pairs, tile: Tile, factors: LineFactors, workspace: Workspace) -> Tensor:
        out, scores = workspace.scratch(tile), _scores(pairs, tile, pairs.row_scale_log2)
        u, v = factors.u[tile.rows], factors.v[tile.cols]
        self.kernels.softmax_weights(scores, factors.shift_log2, u, v, _inner(pairs, tile), out)
        return out

    def sigmoid(self, pairs: Pairs, tile: Tile, rows: SigmoidRows, workspace: Workspace) -> Tensor | None:
        (m, n), (_, block_n) = tile.shape, self.kernels.blocks(pairs.rows.x)
        wanted = rows.sigmoid_sum is not None
        out = workspace.scratch(tile) if wanted else None
        loss, sigmoid_sum = _partials(pairs, math.ceil(n / block_n), m, wanted)
        scores, upstream = _scores(pairs, tile, pairs.row_scale), rows.upstream[tile.rows]
        self.kernels.sigmoid(scores, rows.bias, upstream, _inner(pairs, tile), loss, sigmoid_sum, out)
        _reduce((loss, None), rows.loss[tile.rows], None)
        _reduce((sigmoid_sum, None), _cut(rows.sigmoid_sum, tile.rows), None)
        return out


class TritonExact:
    """The exact path's kernels: they look at a flag on the device and return at once where there is nothing to do."""

    def __init__(self, lse: Callable[..., None], weights: Callable[..., None]) -> None:
        self.lse, self.weights = lse, weights

    def replace_underflowed(self, pairs: Pairs, underflowed: Tensor, lse: Tensor, max_negative: Tensor | None) -> None:
        (row_lse, col_lse), (row_max, col_max) = pairs.split(lse), pairs.split(max_negative)
        rows, cols = pairs.rows, pairs.cols
        scores = Scores(rows.x, cols.x, pairs.row_scale, cols.inverse_norm, pairs.excluded, 0)
        self.lse(scores, underflowed, row_lse, row_max)
        if not pairs.both:
            return
        n = pairs.shape[1]
        scale = pairs.scale.expand(n) if cols.inverse_norm is None else cols.inverse_norm * pairs.scale
        back = pairs.matching.row_of_col
        back = torch.arange(n, device=lse.device) if back is None else back
        scores = Scores(cols.x, rows.x, scale.contiguous(), rows.inverse_norm, back.unsqueeze(1), 0)
        self.lse(scores, underflowed, col_lse, col_max)

    def exact_weights(self, pairs: Pairs, tile: Tile, factors: LineFactors, out: Tensor) -> None:
        assert factors.exact is not None
        row_upstream, row_lse, col_upstream, col_lse = factors.exact
        scores = _scores(pairs, tile, pairs.row_scale)._replace(col_inverse_norm=_cut(pairs.cols.inverse_norm, tile.cols))
        rows, cols = (row_upstream[tile.rows], row_lse[tile.rows]), (_cut(col_upstream, tile.cols), _cut(col_lse, tile.cols))
        self.weights(scores, factors.shift_log2, ExactLines(*rows, *cols), _inner(pairs, tile), out)


def _partials(pairs: Pairs, blocks: int, lines: int, second: bool) -> tuple[Tensor, Tensor | None]:
    """One or two float32 (blocks, lines) that a kernel fills whole; summed over the blocks in a fixed order."""
    first = pairs.row_scale.new_empty(blocks, lines, dtype=torch.float32)
    return first, torch.empty_like(first) if second else None


def _reduce(partial: tuple[Tensor | None, Tensor | None], total: Tensor | None, largest: Tensor | None) -> None:
    sums, maxima = partial
    if sums is not None and total is not None:
        total += sums.sum(0, dtype=torch.float64)
    if maxima is not None and largest is not None:
        torch.maximum(largest, maxima.amax(0), out=largest)


def _cut(values: Tensor | None, part: slice) -> Tensor | None:
    return None if values is None else values[part]


def _scores(pairs: Pairs, tile: Tile, row_scale: Tensor) -> Scores:
    """``row_scale`` (M,) in the units of the kernel's logits."""
    rows, cols = pairs.rows.x[tile.rows], pairs.cols.x[tile.cols]
    col_inverse_norm = _cut(pairs.col_inverse_norm, tile.cols)
    return Scores(rows, cols, row_scale[tile.rows], col_inverse_norm, pairs.excluded[tile.rows], tile.col0)


def _inner(pairs: Pairs, tile: Tile) -> Inner:
    return Inner(_cut(pairs.rows.inner, tile.rows), _cut(pairs.cols.inner, tile.cols))


@cache
def triton_missing() -> str | None:
    try:
        import triton
    except ImportError as error:
        return f"Triton is not installed ({error}); it comes with torch's CUDA builds"
    found = tuple(int(part) for part in triton.__version__.split(".")[:2])
    if found < TRITON_MINIMUM:
        return f"Triton {triton.__version__} is too old for the kernels, which need {'.'.join(map(str, TRITON_MINIMUM))}"
    return None


def interpreted() -> bool:
    """Whether Triton's interpreter stands in for a GPU: slow, on CPU tensors, and only when forced by name."""
    return os.environ.get("TRITON_INTERPRET") == "1"


def why_not_triton(query: Query | None) -> str | None:
    if triton_missing():
        return triton_missing()
    if query is None:
        return None if torch.cuda.is_available() or interpreted() else "torch sees no GPU"
    if query.device != "cuda" and not (query.device == "cpu" and interpreted()):
        return f"it runs on a GPU; the features are on {query.device}"
    if query.dtype == torch.float64:
        return "its products are float32 or narrower; float64 features need the torch backend"
    return None


def triton_with(name: str, rows: type[TritonRows], tiles: TileKernels) -> Backend:
    """A backend with Triton's row-wise kernels and range guard around the tile kernels of one implementation."""
    from clipfast.kernels.exact_lse import exact_lse
    from clipfast.kernels.exact_weights import exact_weights
    from clipfast.kernels.finish_rows import finish_rows
    from clipfast.kernels.paired_dots import paired_dots
    from clipfast.kernels.row_norms import row_norms

    by_row = RowKernels(row_norms, paired_dots, finish_rows)
    return Backend(name, rows(by_row), TritonTiles(tiles), DeviceGemm(), TritonExact(exact_lse, exact_weights))


def _make() -> Backend:
    from clipfast.kernels.exp_sums import exp_sums
    from clipfast.kernels.sigmoid import sigmoid
    from clipfast.kernels.softmax_weights import softmax_weights
    from clipfast.kernels.tune import block_of, in_its_block

    def blocks(features: Tensor) -> tuple[int, int]:
        block = block_of(features)
        return block.rows, block.cols

    kernels = TileKernels(in_its_block(exp_sums), in_its_block(softmax_weights), in_its_block(sigmoid), blocks)
    return triton_with("triton", TritonRows, kernels)


TRITON = Declaration("triton", why_not_triton, _make, chosen_on=("accelerator",))
