// What the epilogue needs to know of a block's columns (col_inverse_norm, col_inner, v), as vectors in shared memory. Every
// warp needs all of a block's columns, so they are fetched once, by asynchronous copies that arrive during the products.
#pragma once

#include "device.h"
#include "fragment.h"
#include "tile.h"

namespace clipfast {
namespace cuda {

constexpr int kMaxColumnVectors = 3;

// Shared memory that an epilogue is given: the column vectors, `width` floats each, and scratch of its own.
struct Shared {
  const float* columns;
  char* scratch;
};

template <class Gemm>
__host__ __device__ constexpr int columns_bytes() {
  return kMaxColumnVectors * Gemm::kBlockN * 4;
}

// Starts the copies of vectors[k][the block's columns], 0 beyond the last column; ones where a vector is null.
template <class Gemm, int kCount>
__device__ __forceinline__ void load_columns(float* to, const float* const (&vectors)[kCount], Block block, int n) {
  static_assert(Gemm::kBlockN == Gemm::kConsumers && kCount <= kMaxColumnVectors, "one column a thread");
  const int column = Gemm::thread(), j = block.n * Gemm::kBlockN + column;
#pragma unroll
  for (int k = 0; k < kCount; ++k) {
    if (vectors[k] == nullptr)
      to[k * Gemm::kBlockN + column] = 1.0f;
    else
      ptx::cp_async_4(to + k * Gemm::kBlockN + column, vectors[k] + (j < n ? j : 0), j < n);
  }
}

// The values of columns c and c + 1 of a fragment, for even c.
struct alignas(8) Pair {
  float value[2];
};
template <class Gemm>
__device__ __forceinline__ Pair column_pair(const Shared& shared, int vector, const typename Gemm::Accumulators& f, int c) {
  const float* at = shared.columns + vector * Gemm::kBlockN + f.first_col + Gemm::Accumulators::col_step(c);
  return *reinterpret_cast<const Pair*>(at);
}

}  // namespace cuda
}  // namespace clipfast
