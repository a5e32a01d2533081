"""The parts that tile kernels are made of: a program's block, its dot products, its logits, and the mask of excluded pairs."""

import triton
import triton.language as tl


@triton.jit
def block_of_program(m, n, BM: tl.constexpr, BN: tl.constexpr, GROUP: tl.constexpr):
    """This program's block of rows and block of columns.

    Programs go through GROUP blocks of rows at a time, so that the columns stay in L2.
    """
    blocks_m, blocks_n = tl.cdiv(m, BM), tl.cdiv(n, BN)
    program = tl.program_id(0)
    first = program // (GROUP * blocks_n) * GROUP
    height = min(blocks_m - first, GROUP)
    within = program % (GROUP * blocks_n)
    return first + within % height, within // height


@triton.jit
def load_block(x, row0, k, count, width, stride, B: tl.constexpr, BK: tl.constexpr, TMA: tl.constexpr):
    """``x[row0 : row0 + B, k : k + BK]``, 0 outside; ``x`` is a TMA descriptor or a pointer to rows ``stride`` apart."""
    if TMA:
        v = x.load([row0, k])
    else:
        i = row0 + tl.arange(0, B)
        j = k + tl.arange(0, BK)
        inside = (i < count)[:, None] & (j < width)[None, :]
        v = tl.load(x + i.to(tl.int64)[:, None] * stride + j[None, :], mask=inside, other=0.0)
    return v


@triton.jit
def dots(
    rows, cols, row0, col0, m, n, width, row_stride, col_stride,
    BM: tl.constexpr, BN: tl.constexpr, BK: tl.constexpr, TMA: tl.constexpr, PRECISION: tl.constexpr,
):  # fmt: skip
    """``rows[row0 : row0 + BM] @ cols[col0 : col0 + BN].T`` in float32."""
    acc = tl.zeros((BM, BN), dtype=tl.float32)
    for k in range(0, width, BK):
        a = load_block(rows, row0, k, m, width, row_stride, BM, BK, TMA)
        b = load_block(cols, col0, k, n, width, col_stride, BN, BK, TMA)
        acc = tl.dot(a, b.T, acc, input_precision=PRECISION)
    return acc


@triton.jit
def logits(
    acc, row_scale, col_inverse_norm, add, row0, col0, m, n, BM: tl.constexpr, BN: tl.constexpr, SPLIT: tl.constexpr
):  # fmt: skip
    """``row_scale[:, None] * col_inverse_norm * acc + add``, in the units of ``row_scale``.

    SPLIT takes the float64 scale as two floats, so that a large scale adds no rounding of its own.
    """
    i, j = row0 + tl.arange(0, BM), col0 + tl.arange(0, BN)
    scale = tl.load(row_scale + i, mask=i < m, other=0.0)
    high = scale.to(tl.float32)
    x = acc
    if col_inverse_norm is not None:
        x = x * tl.load(col_inverse_norm + j, mask=j < n, other=0.0)[None, :]
    if SPLIT:
        low = (scale - high.to(tl.float64)).to(tl.float32)
        z = x * high[:, None] + (x * low[:, None] + add)
    else:
        z = x * high[:, None] + add
    return z


@triton.jit
def cleared(
    x, value, excluded, row0, col0, first_col, m, n, BM: tl.constexpr, BN: tl.constexpr, EXCLUDED: tl.constexpr
):  # fmt: skip
    """``x`` with ``value`` outside the tile and at excluded pairs. Most blocks have neither and skip the comparisons."""
    i, j = row0 + tl.arange(0, BM), col0 + tl.arange(0, BN)
    inside_row, inside_col = i < m, j < n
    column = tl.load(excluded + i.to(tl.int64) * EXCLUDED, mask=inside_row, other=-1) - first_col
    other = column
    if EXCLUDED == 2:
        other = tl.load(excluded + i.to(tl.int64) * EXCLUDED + 1, mask=inside_row, other=-1) - first_col
    near = ((column >= col0) & (column < col0 + BN)) | ((other >= col0) & (other < col0 + BN))
    touched = (tl.max(near.to(tl.int32), 0) > 0) | (row0 + BM > m) | (col0 + BN > n)
    if touched:
        wanted = inside_row[:, None] & inside_col[None, :] & (column[:, None] != j[None, :]) & (other[:, None] != j[None, :])
        x = tl.where(wanted, x, value)
    return x


@triton.jit
def vector(pointer, start, count, B: tl.constexpr):
    """``pointer[start : start + B]``, 0 past ``count``; 1 where there is no pointer."""
    if pointer is None:
        x = tl.full((B,), 1.0, tl.float32)
    else:
        i = start + tl.arange(0, B)
        x = tl.load(pointer + i, mask=i < count, other=0.0)
    return x
