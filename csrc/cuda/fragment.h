// The part of a block that one thread holds in registers. mma.sync and wgmma deliver the same arrangement, so an epilogue is
// written once for both: pieces of 16 x 8, in which lane l holds rows l / 4 and l / 4 + 8, columns 2 (l % 4) and the next.
#pragma once

namespace clipfast {
namespace cuda {

// A block's place in the tile, in blocks.
struct Block {
  int m, n;
};

template <int kPiecesM, int kPiecesN>
struct Fragment {
  static constexpr int kRows = 2 * kPiecesM, kCols = 2 * kPiecesN, kSize = kRows * kCols;
  float value[kSize] = {};
  int first_row, first_col;  // of element (0, 0), within the block

  __device__ Fragment(int row, int col) : first_row(row), first_col(col) {}

  __device__ __forceinline__ float& operator()(int r, int c) {
    return value[((r / 2) * kPiecesN + c / 2) * 4 + (r % 2) * 2 + c % 2];
  }
  __device__ __forceinline__ float* piece(int i, int j) { return value + (i * kPiecesN + j) * 4; }

  // Distances from the first row and the first column.
  static __device__ __forceinline__ constexpr int row_step(int r) { return (r / 2) * 16 + (r % 2) * 8; }
  static __device__ __forceinline__ constexpr int col_step(int c) { return (c / 2) * 8 + c % 2; }
  static constexpr int kWarpRows = kPiecesM * 16, kColSpan = kPiecesN * 8;  // of the whole warp

  template <class F>
  __device__ __forceinline__ void each(const F& f) {
#pragma unroll
    for (int k = 0; k < kSize; ++k) value[k] = f(value[k]);
  }
};

// Blocks are visited in groups of 8 rows of blocks, column after column within a group: the blocks in flight then share
// their rows and columns in the L2 cache.
__device__ __forceinline__ Block block_at(int index, int blocks_m, int blocks_n) {
  constexpr int kGroup = 8;
  const int group = index / (kGroup * blocks_n), first = group * kGroup;
  const int height = blocks_m - first < kGroup ? blocks_m - first : kGroup;
  const int within = index - group * kGroup * blocks_n;
  return {first + within % height, within / height};
}

}  // namespace cuda
}  // namespace clipfast
