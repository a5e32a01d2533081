// From dot products in a fragment to logits, in place. A pair that is excluded or lies beyond the tile's edge gets the logit
// -inf: its exponential, its softplus and its sigmoid are then exactly 0, and no later step needs to know about it.
#pragma once

#include "columns.h"
#include "device.h"
#include "fragment.h"
#include "tile.h"

namespace clipfast {
namespace cuda {

// scale * d + offset. For float32 features the scale is split in two floats, so that one of 100 adds no rounding of its own;
// products of half features carry larger errors already.
template <bool kSplit>
struct Affine {
  float high, low, offset;
  __device__ __forceinline__ Affine(double scale, float add)
      : high(static_cast<float>(scale)), low(kSplit ? static_cast<float>(scale - high) : 0.0f), offset(add) {}
  __device__ __forceinline__ float operator()(float d) const {
    return kSplit ? d * high + (d * low + offset) : d * high + offset;
  }
};

template <class T>
__device__ __forceinline__ T value_or(const T* values, int index, int count, T otherwise) {
  return values != nullptr && index < count ? values[index] : otherwise;
}

// The columns excluded from a row, counted from the fragment's first column; -1 for those that it does not reach.
template <int kSpan>
struct Excluded {
  int column[2];
  __device__ __forceinline__ Excluded(const Tile& t, int row, int first_col) {
#pragma unroll
    for (int k = 0; k < 2; ++k) {
      const bool there = k < t.excluded_per_row && row < t.m;
      const int64 whole = there ? t.excluded[static_cast<int64>(row) * t.excluded_per_row + k] : -1;
      const int64 local = whole - t.first_col - first_col;
      column[k] = whole >= 0 && local >= 0 && local < kSpan ? static_cast<int>(local) : -1;
    }
  }
  __device__ __forceinline__ bool any() const { return column[0] >= 0 || column[1] >= 0; }
  __device__ __forceinline__ bool holds(int step) const { return (column[0] == step) | (column[1] == step); }
};

// Whether the warp's part of the block, which starts at (row, col), holds a pair to mask. The lanes divide the rows among them.
template <class F>
__device__ __forceinline__ bool warp_touched(const Tile& t, int row, int col) {
  bool touched = row + F::kWarpRows > t.m || col + F::kColSpan > t.n;
#pragma unroll
  for (int r = ptx::lane(); r < F::kWarpRows; r += 32) touched = Excluded<F::kColSpan>(t, row + r, col).any() || touched;
  return ptx::any_lane(touched);
}

template <class F>
__device__ __forceinline__ void mask(F& f, const Tile& t, int row, int col) {
#pragma unroll
  for (int r = 0; r < F::kRows; ++r) {
    const Excluded<F::kColSpan> excluded(t, row + F::row_step(r), col);
#pragma unroll
    for (int c = 0; c < F::kCols; ++c) {
      const bool outside = (row + F::row_step(r) >= t.m) | (col + F::col_step(c) >= t.n);
      f(r, c) = outside | excluded.holds(F::col_step(c)) ? -ptx::kInfinity : f(r, c);
    }
  }
}

// The first column vector holds col_inverse_norm; `offset` is the bias, or minus the shift in base 2.
template <class Gemm>
__device__ __forceinline__ void to_logits(typename Gemm::Accumulators& f, const Tile& t, const Shared& shared, Block block,
                                          float offset) {
  using F = typename Gemm::Accumulators;
  const int row = block.m * Gemm::kBlockM + f.first_row, col = block.n * Gemm::kBlockN + f.first_col;
#pragma unroll
  for (int c = 0; c < F::kCols; c += 2) {
    const Pair norm = column_pair<Gemm>(shared, 0, f, c);
#pragma unroll
    for (int r = 0; r < F::kRows; ++r) {
      f(r, c) *= norm.value[0];
      f(r, c + 1) *= norm.value[1];
    }
  }
#pragma unroll
  for (int r = 0; r < F::kRows; ++r) {
    const Affine<Gemm::kFloat32> z(value_or(t.row_scale, row + F::row_step(r), t.m, 0.0), offset);
#pragma unroll
    for (int c = 0; c < F::kCols; ++c) f(r, c) = z(f(r, c));
  }
  // Most warps have nothing to mask and save two comparisons for each pair.
  if (warp_touched<F>(t, row - ptx::lane() / 4, col - ptx::lane() % 4 * 2)) mask(f, t, row, col);
}

}  // namespace cuda
}  // namespace clipfast
