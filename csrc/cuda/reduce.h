// Sums and maxima of a block's rows and columns: within a thread, then within a warp by shuffles, then across warps through
// shared memory. The order is fixed, so a second run gives the same bits.
#pragma once

#include "device.h"
#include "fragment.h"

namespace clipfast {
namespace cuda {

struct Sum {
  static __device__ __forceinline__ float of(float x, float y) { return x + y; }
};
struct Max {
  static __device__ __forceinline__ float of(float x, float y) { return x > y ? x : y; }
};

// Combines `parts` values, `length` apart, for each of `length` lines, and writes those that lie inside the tile.
template <class Op, class Gemm>
__device__ __forceinline__ void combine(const float* scratch, int parts, int length, float* out, int first, int count) {
  Gemm::sync();
  for (int line = Gemm::thread(); line < length; line += Gemm::kConsumers) {
    float total = scratch[line];
    for (int part = 1; part < parts; ++part) total = Op::of(total, scratch[part * length + line]);
    if (first + line < count) out[first + line] = total;
  }
  Gemm::sync();
}

struct Itself {
  __device__ __forceinline__ float operator()(float x) const { return x; }
};

// out[column block, row] = op over the block's columns of map(f). The map is applied on the way, since a second copy of f would
// not fit in the registers.
template <class Op, class Gemm, class Map = Itself>
__device__ __forceinline__ void reduce_rows(typename Gemm::Accumulators& f, float* scratch, float* out, Block block, int m,
                                            const Map& map = {}) {
  using F = typename Gemm::Accumulators;
  float* part = scratch + (f.first_col / F::kColSpan) * Gemm::kBlockM + f.first_row;
#pragma unroll
  for (int r = 0; r < F::kRows; ++r) {
    float total = map(f(r, 0));
#pragma unroll
    for (int c = 1; c < F::kCols; ++c) total = Op::of(total, map(f(r, c)));
    total = Op::of(total, ptx::shuffle_xor(total, 1));
    total = Op::of(total, ptx::shuffle_xor(total, 2));
    if (ptx::lane() % 4 == 0) part[F::row_step(r)] = total;
  }
  combine<Op, Gemm>(scratch, Gemm::kWarpsN, Gemm::kBlockM, out + static_cast<int64>(block.n) * m, block.m * Gemm::kBlockM, m);
}

// Lanes `mask` apart hold the same columns: each keeps one half of them and passes the other half's values on. Three such steps
// combine eight lanes with 7/8 of a shuffle per column, where a butterfly would take three.
template <class Op, int kHalf, int kCount>
__device__ __forceinline__ void halve(float (&values)[kCount], int mask, int& first) {
  const bool upper = ptx::lane() & mask;
#pragma unroll
  for (int k = 0; k < kHalf; ++k) {
    const float low = values[k], high = values[k + kHalf];
    values[k] = Op::of(upper ? high : low, ptx::shuffle_xor(upper ? low : high, mask));
  }
  first += upper ? kHalf : 0;
}

// out[row block, column] = op over the block's rows of f.
template <class Op, class Gemm>
__device__ __forceinline__ void reduce_cols(typename Gemm::Accumulators& f, float* scratch, float* out, Block block, int n) {
  using F = typename Gemm::Accumulators;
  float total[F::kCols];
#pragma unroll
  for (int c = 0; c < F::kCols; ++c) {
    total[c] = f(0, c);
#pragma unroll
    for (int r = 1; r < F::kRows; ++r) total[c] = Op::of(total[c], f(r, c));
  }
  int first = 0;  // of the columns that this lane ends up with
  halve<Op, F::kCols / 2>(total, 16, first);
  halve<Op, F::kCols / 4>(total, 8, first);
  halve<Op, F::kCols / 8>(total, 4, first);
  float* part = scratch + f.first_row / F::kWarpRows * Gemm::kBlockN + f.first_col;
#pragma unroll
  for (int c = 0; c < F::kCols / 8; ++c) part[F::col_step(first + c)] = total[c];
  combine<Op, Gemm>(scratch, Gemm::kWarpsM, Gemm::kBlockN, out + static_cast<int64>(block.m) * n, block.n * Gemm::kBlockN, n);
}

template <class Gemm>
__host__ __device__ constexpr int reduce_bytes() {
  constexpr int rows = Gemm::kWarpsN * Gemm::kBlockM, cols = Gemm::kWarpsM * Gemm::kBlockN;
  return 4 * (rows > cols ? rows : cols);
}

}  // namespace cuda
}  // namespace clipfast
