// Writing a block of weights: rounded to the features' dtype into shared memory, where the lanes' pairs of columns become whole
// rows, and from there in 16-byte pieces.
#pragma once

#include "device.h"
#include "fragment.h"

namespace clipfast {
namespace cuda {

struct alignas(16) Piece {
  uint32 word[4];
};

constexpr int kStorePadding = 8;  // elements after each row, so that the rows of a warp start in different banks

template <class Gemm>
__host__ __device__ constexpr int store_bytes() {
  return Gemm::kBlockM * (Gemm::kBlockN + kStorePadding) * Gemm::kElementSize;
}

// out[i, j .. j + count) = staged; in one piece where that is whole and aligned.
template <class T>
__device__ __forceinline__ void write_piece(T* out, const T* staged, int count, bool aligned) {
  constexpr int kWhole = sizeof(Piece) / sizeof(T);
  if (aligned && count >= kWhole) {
    *reinterpret_cast<Piece*>(out) = *reinterpret_cast<const Piece*>(staged);
  } else {
    for (int k = 0; k < kWhole && k < count; ++k) out[k] = staged[k];
  }
}

template <class Gemm>
__device__ __forceinline__ void store_block(typename Gemm::Accumulators& f, char* scratch, char* out, int64 out_stride,
                                            Block block, int m, int n) {
  using F = typename Gemm::Accumulators;
  using T = typename Gemm::Element;
  constexpr int kPitch = Gemm::kBlockN + kStorePadding, kWhole = sizeof(Piece) / sizeof(T);
  T* staged = reinterpret_cast<T*>(scratch);
#pragma unroll
  for (int r = 0; r < F::kRows; ++r)
#pragma unroll
    for (int c = 0; c < F::kCols; c += 2) {
      const int row = f.first_row + F::row_step(r), col = f.first_col + F::col_step(c);
      ptx::store_pair(staged + row * kPitch + col, f(r, c), f(r, c + 1));
    }
  Gemm::sync();
  const bool aligned = (reinterpret_cast<uintptr_t>(out) | static_cast<uintptr_t>(out_stride)) % sizeof(Piece) == 0;
  for (int k = Gemm::thread(); k < Gemm::kBlockM * Gemm::kBlockN / kWhole; k += Gemm::kConsumers) {
    const int row = k / (Gemm::kBlockN / kWhole), col = k % (Gemm::kBlockN / kWhole) * kWhole;
    const int i = block.m * Gemm::kBlockM + row, j = block.n * Gemm::kBlockN + col;
    if (i < m && j < n)
      write_piece(reinterpret_cast<T*>(out + i * out_stride) + j, staged + row * kPitch + col, n - j, aligned);
  }
  Gemm::sync();
}

}  // namespace cuda
}  // namespace clipfast
