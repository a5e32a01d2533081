// One block of dot products on any GPU from sm_80 on: cp.async brings rows and columns to shared memory, kStages - 1 steps
// ahead; ldmatrix takes them to registers; mma.sync multiplies. The three dtypes differ in the multiplication alone: 32 bytes
// of a row are 16 halves or 8 floats, and ldmatrix moves bytes.
#pragma once

#include "columns.h"
#include "device.h"
#include "fragment.h"
#include "reduce.h"
#include "store.h"
#include "tile.h"

namespace clipfast {
namespace cuda {

// What an epilogue needs shared memory for.
enum class Scratch { kSums, kStore };

template <class T, Scratch kScratch>
struct MmaGemm {
  using Element = T;
  using Accumulators = Fragment<4, 8>;  // each warp multiplies 64 rows by 64 columns
  static constexpr bool kFloat32 = sizeof(T) == 4;
  static constexpr int kElementSize = sizeof(T), kBlockM = 128, kBlockN = 128, kWarpsM = 2, kWarpsN = 2;
  static constexpr int kThreads = 128, kConsumers = 128, kBlocksPerSm = 2, kStages = 4;
  static constexpr int kRowBytes = 64;  // of each row and column in one stage: two steps of mma.sync
  static constexpr int kStageBytes = (kBlockM + kBlockN) * kRowBytes;
  struct Operands {};

  // The epilogue's scratch lies over the stages, which it no longer needs; the column vectors lie behind both.
  static __host__ __device__ constexpr int columns_at() {
    constexpr int scratch = kScratch == Scratch::kSums ? reduce_bytes<MmaGemm>() : store_bytes<MmaGemm>();
    return scratch > kStages * kStageBytes ? scratch : kStages * kStageBytes;
  }
  static constexpr int shared_bytes() { return columns_at() + columns_bytes<MmaGemm>(); }
  static Operands operands(const Tile&) { return {}; }
  static int grid(const Tile& t, const Device&) {
    static_assert(shared_bytes() <= 99 * 1024, "of one block; sm_86 and sm_89 have no more");
    static_assert(kBlocksPerSm * (shared_bytes() + 1024) <= 164 * 1024, "of all blocks on a processor of sm_80");
    return blocks_along(t.m, kBlockM) * blocks_along(t.n, kBlockN);
  }

  static __device__ __forceinline__ int thread() { return threadIdx.x; }
  static __device__ __forceinline__ void sync() { __syncthreads(); }

  // Where 16-byte piece `piece` of a row lies. Eight rows that ldmatrix reads together fall into eight different bank groups.
  static __device__ __forceinline__ int swizzled(int row, int piece) { return row * kRowBytes + (piece ^ (row / 2 % 4)) * 16; }

  // One side of a stage. What lies beyond the last row or the width is filled with zeros.
  static __device__ __forceinline__ void load(char* stage, const char* source, int64 stride, int first, int count, int byte,
                                              int width) {
    constexpr int kPieces = kRowBytes / 16, kRowsAtOnce = kThreads / kPieces;
    const int piece = thread() % kPieces, row = thread() / kPieces, at = byte + piece * 16;
    const int rows = at < width ? count - first - row : 0;  // those below are inside
    const char* from = source + (first + row) * stride + at;
    char* to = stage + swizzled(row, piece);
#pragma unroll
    for (int i = 0; i < kBlockM; i += kRowsAtOnce)
      ptx::cp_async_16(to + i * kRowBytes, i < rows ? from + i * stride : source, i < rows);
  }

  static __device__ __forceinline__ void load_stage(char* shared, const Tile& t, Block block, int step) {
    char* stage = shared + step % kStages * kStageBytes;
    if (step * kRowBytes < t.width_bytes) {
      load(stage, t.rows, t.row_stride, block.m * kBlockM, t.m, step * kRowBytes, t.width_bytes);
      load(stage + kBlockM * kRowBytes, t.cols, t.col_stride, block.n * kBlockN, t.n, step * kRowBytes, t.width_bytes);
    }
    ptx::cp_async_commit();  // also when empty: the wait counts groups
  }

  static __device__ __forceinline__ void multiply_stage(Accumulators& f, const char* rows, const char* cols, int warp_row,
                                                        int warp_col) {
    const int lane = ptx::lane();  // 16 rows further the swizzle is the same
    const int row = warp_row + lane % 16, col = warp_col + lane % 8 + lane / 16 * 8;
#pragma unroll
    for (int piece = 0; piece < kRowBytes / 16; piece += 2) {
      uint32 a[4][4], b[4][4];  // 16 rows each, 16 columns each
#pragma unroll
      for (int i = 0; i < 4; ++i) ptx::load_matrices<T>(a[i], rows + swizzled(row, piece + lane / 16) + i * 16 * kRowBytes);
#pragma unroll
      for (int j = 0; j < 4; ++j) ptx::load_matrices<T>(b[j], cols + swizzled(col, piece + lane / 8 % 2) + j * 16 * kRowBytes);
#pragma unroll
      for (int i = 0; i < 4; ++i)
#pragma unroll
        for (int j = 0; j < 8; ++j) ptx::mma<T>(f.piece(i, j), a[i], b[j / 2] + j % 2 * 2);
    }
  }

  template <int kVectors, class Epilogue>
  static __device__ __forceinline__ void run(const Operands&, const Tile& t, const float* const (&vectors)[kVectors],
                                             const Epilogue& epilogue) {
    char* shared = ptx::shared_memory();
    float* columns = reinterpret_cast<float*>(shared + columns_at());
    const Block block = block_at(blockIdx.x, blocks_along(t.m, kBlockM), blocks_along(t.n, kBlockN));
    const int warp = thread() / 32, lane = ptx::lane(), warp_row = warp / kWarpsN * 64, warp_col = warp % kWarpsN * 64;
    Accumulators f(warp_row + lane / 4, warp_col + lane % 4 * 2);
    load_columns<MmaGemm>(columns, vectors, block, t.n);  // joins the first stage's group
    for (int step = 0; step < kStages - 1; ++step) load_stage(shared, t, block, step);
#pragma unroll 1
    for (int step = 0; step * kRowBytes < t.width_bytes; ++step) {
      ptx::cp_async_wait<kStages - 2>();
      __syncthreads();  // this step has arrived for everyone, and everyone has left the stage that is loaded next
      load_stage(shared, t, block, step + kStages - 1);
      const char* stage = shared + step % kStages * kStageBytes;
      multiply_stage(f, stage, stage + kBlockM * kRowBytes, warp_row, warp_col);
    }
    ptx::cp_async_wait<0>();
    __syncthreads();
    epilogue(f, block, {columns, shared});
  }
};

}  // namespace cuda
}  // namespace clipfast
