// Blocks of dot products on Hopper. One thread, the producer, has TMA bring rows and columns to shared memory, as many stages
// ahead as there is room for; eight warps, the consumers, multiply them with wgmma, 64 rows by 256 columns for each four.
// Thread blocks stay on their processor and take one block of pairs after another, so the next block's first stages arrive
// during the epilogue.
#pragma once

#include "gemm_mma.h"

// wgmma exists on sm_90a alone; elsewhere this kernel is empty and never launched (uses_wgmma in tile.h).
#if defined(CLIPFAST_EMULATION) || defined(__CUDA_ARCH_FEAT_SM90_ALL)
#define CLIPFAST_WGMMA_HERE 1
#else
#define CLIPFAST_WGMMA_HERE 0
#endif

namespace clipfast {
namespace cuda {

// A place in the ring of stages. The phase says how often the ring has been walked, modulo 2.
struct Place {
  int stage = 0;
  uint32 phase = 0;
  __device__ __forceinline__ void advance(int stages) {
    if (++stage == stages) stage = 0, phase ^= 1;
  }
};

template <class T, Scratch kScratch>
struct WgmmaGemm {
  using Element = T;
  using Accumulators = Fragment<1, 32>;  // each warp holds 16 rows by 256 columns
  static constexpr bool kFloat32 = false;
  static constexpr int kElementSize = sizeof(T), kBlockM = 128, kBlockN = 256, kWarpsM = 8, kWarpsN = 1;
  static constexpr int kConsumers = 256, kThreads = kConsumers + 128, kBlocksPerSm = 1;
  // 384 threads start with 168 registers each; the producer's four warps, of which one works, pass theirs on.
  static constexpr int kConsumerRegisters = 232, kProducerRegisters = 40;
  static constexpr int kRowBytes = 128;  // of each row and column in one stage: four steps of wgmma
  static constexpr int kStageBytes = (kBlockM + kBlockN) * kRowBytes;
  static constexpr int kStages = kScratch == Scratch::kSums ? 4 : 3;
  struct Operands {
    TensorMap rows, cols;
  };

  // Stages, scratch, column vectors, barriers. The scratch lies apart, since the stages fill again while the epilogue runs.
  static __host__ __device__ constexpr int scratch_at() { return kStages * kStageBytes; }
  static __host__ __device__ constexpr int columns_at() {
    return scratch_at() + (kScratch == Scratch::kSums ? reduce_bytes<WgmmaGemm>() : store_bytes<WgmmaGemm>());
  }
  static __host__ __device__ constexpr int barriers_at() { return columns_at() + columns_bytes<WgmmaGemm>(); }
  static constexpr int shared_bytes() { return barriers_at() + 2 * kStages * 8; }

  static Operands operands(const Tile& t) {
    return {tensor_map(t.rows, t.row_stride, t.m, t.width_bytes, kBlockM),
            tensor_map(t.cols, t.col_stride, t.n, t.width_bytes, kBlockN)};
  }
  static __device__ __host__ int blocks(const Tile& t) { return blocks_along(t.m, kBlockM) * blocks_along(t.n, kBlockN); }
  static int grid(const Tile& t, const Device& device) {
    static_assert(shared_bytes() <= 227 * 1024, "of one block on sm_90");
    return blocks(t) < device.processors ? blocks(t) : device.processors;
  }

  static __device__ __forceinline__ int thread() { return threadIdx.x; }
  static __device__ __forceinline__ void sync() { ptx::named_barrier(1, kConsumers); }

#if CLIPFAST_WGMMA_HERE
  static __device__ __forceinline__ ptx::Barrier* full(int stage) {
    return reinterpret_cast<ptx::Barrier*>(ptx::shared_memory() + barriers_at()) + stage;
  }
  static __device__ __forceinline__ ptx::Barrier* empty(int stage) { return full(kStages + stage); }

  template <class Body>
  static __device__ __forceinline__ void each_block(const Tile& t, const Body& body) {
    for (int index = blockIdx.x; index < blocks(t); index += gridDim.x)
      body(block_at(index, blocks_along(t.m, kBlockM), blocks_along(t.n, kBlockN)));
  }

  // One thread asks for every stage of every block, each as soon as the consumers have left it.
  static __device__ __forceinline__ void produce(const Operands& o, const Tile& t) {
    ptx::tma_prefetch(&o.rows);
    ptx::tma_prefetch(&o.cols);
    Place place;
    each_block(t, [&](Block block) {
      for (int byte = 0; byte < t.width_bytes; byte += kRowBytes) {
        char* stage = ptx::shared_memory() + place.stage * kStageBytes;
        ptx::barrier_wait(empty(place.stage), place.phase ^ 1);
        ptx::barrier_arrive_expecting(full(place.stage), kStageBytes);
        ptx::tma_load(stage, &o.rows, full(place.stage), byte, block.m * kBlockM);
        ptx::tma_load(stage + kBlockM * kRowBytes, &o.cols, full(place.stage), byte, block.n * kBlockN);
        place.advance(kStages);
      }
    });
  }

  static __device__ __forceinline__ void release(int stage) {
    if (ptx::lane() == 0) ptx::barrier_arrive(empty(stage));
  }

  // One block's products. A stage is released one step late, when the products that read it are known to be done.
  static __device__ __forceinline__ void multiply(Accumulators& f, Place& place, int width_bytes) {
    const int group = thread() / 128;
    int last = -1;
    for (int byte = 0; byte < width_bytes; byte += kRowBytes) {
      const char* stage = ptx::shared_memory() + place.stage * kStageBytes;
      ptx::barrier_wait(full(place.stage), place.phase);
      const uint64_t a = ptx::matrix_descriptor(stage + group * 64 * kRowBytes),
                     b = ptx::matrix_descriptor(stage + kBlockM * kRowBytes);
      ptx::wgmma_fence();
#pragma unroll
      for (int k = 0; k < kRowBytes / 32; ++k) ptx::wgmma<T>(f.value, a + k * 2, b + k * 2);
      ptx::wgmma_commit();
      ptx::wgmma_wait<1>(f.value);
      if (last >= 0) release(last);
      last = place.stage;
      place.advance(kStages);
    }
    ptx::wgmma_wait<0>(f.value);
    release(last);
  }

  template <int kVectors, class Epilogue>
  static __device__ __forceinline__ void run(const Operands& o, const Tile& t, const float* const (&vectors)[kVectors],
                                             const Epilogue& epilogue) {
    if (thread() == 0) {
      for (int stage = 0; stage < kStages; ++stage) {
        ptx::barrier_init(full(stage), 1);
        ptx::barrier_init(empty(stage), kConsumers / 32);  // each warp releases
      }
      ptx::fence_for_copies();
    }
    __syncthreads();
    if (thread() >= kConsumers) {
      ptx::registers_down<kProducerRegisters>();
      if (thread() == kConsumers) produce(o, t);
    } else {
      ptx::registers_up<kConsumerRegisters>();
      float* columns = reinterpret_cast<float*>(ptx::shared_memory() + columns_at());
      Place place;
      each_block(t, [&](Block block) {
        Accumulators f(thread() / 32 * 16 + ptx::lane() / 4, ptx::lane() % 4 * 2);
        load_columns<WgmmaGemm>(columns, vectors, block, t.n);
        ptx::cp_async_commit();
        multiply(f, place, t.width_bytes);
        ptx::cp_async_wait<0>();
        sync();
        epilogue(f, block, {columns, ptx::shared_memory() + scratch_at()});
      });
    }
  }
#else
  template <int kVectors, class Epilogue>
  static __device__ void run(const Operands&, const Tile&, const float* const (&)[kVectors], const Epilogue&) {}
#endif
};

}  // namespace cuda
}  // namespace clipfast
