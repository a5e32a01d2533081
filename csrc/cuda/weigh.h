// The weights of a block in place of its exponentials or sigmoids.
#pragma once

#include "columns.h"
#include "device.h"
#include "fragment.h"
#include "logits.h"
#include "tile.h"

namespace clipfast {
namespace cuda {

// f_ij *= row_i * row_inner_i * col_inner_j, or with kColumns (row_i + col_j) * row_inner_i * col_inner_j. The second column
// vector holds col_inner, the third col; `row_inner` and, without kColumns, `row` may be null for 1.
template <bool kColumns, class Gemm>
__device__ __forceinline__ void weigh(typename Gemm::Accumulators& f, const float* row, const float* row_inner, int m,
                                      const Shared& shared, Block block) {
  using F = typename Gemm::Accumulators;
  const int first = block.m * Gemm::kBlockM + f.first_row;
  float u[F::kRows], a[F::kRows];
#pragma unroll
  for (int r = 0; r < F::kRows; ++r) {
    u[r] = value_or(row, first + F::row_step(r), m, kColumns ? 0.0f : 1.0f);
    a[r] = value_or(row_inner, first + F::row_step(r), m, 1.0f);
  }
#pragma unroll
  for (int c = 0; c < F::kCols; c += 2) {
    const Pair b = column_pair<Gemm>(shared, 1, f, c), v = kColumns ? column_pair<Gemm>(shared, 2, f, c) : Pair{};
#pragma unroll
    for (int r = 0; r < F::kRows; ++r)
#pragma unroll
      for (int k = 0; k < 2; ++k) f(r, c + k) *= (kColumns ? u[r] + v.value[k] : u[r]) * (a[r] * b.value[k]);
  }
}

}  // namespace cuda
}  // namespace clipfast
