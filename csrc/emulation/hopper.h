// Hopper's part of csrc/cuda/ptx.h: transaction barriers, TMA and wgmma, with the swizzled layout in shared memory as the
// hardware defines it. Products are asynchronous: each warp's part happens when that warp waits for it.
#pragma once

#include "block.h"

namespace clipfast {
namespace emulation {

inline TransactionBarrier& barrier_at(const void* address) {
  const auto found = current->barriers.find(address);
  if (found == current->barriers.end()) fail("mbarrier: used before it was initialised");
  return found->second;
}

// The 128-byte swizzle: bits 4-6 of a shared-memory address, xor bits 7-9.
inline uint32_t swizzled(uint32_t address) { return address ^ (address >> 7 & 7) << 4; }

// A descriptor of wgmma, decoded. Only what the kernels use is accepted.
struct Matrix {
  uint32_t start, group_stride;
  explicit Matrix(uint64_t bits) : start((bits & 0x3fff) << 4), group_stride((bits >> 32 & 0x3fff) << 4) {
    require(bits >> 62 == 1, "wgmma: the descriptor's layout is not the 128-byte swizzle");
    require((bits >> 49 & 7) == 0, "wgmma: the descriptor's base offset is not 0");
    require(group_stride == 1024, "wgmma: groups of 8 rows are not 1024 bytes apart");
    require(start % 128 < 128 - 16, "wgmma: 32 bytes from here leave the row");
  }
  // The two bytes `k` of `row`.
  uint16_t at(int row, int k) const {
    const uint32_t address = swizzled(start + row / 8 * group_stride + row % 8 * 128 + k * 2);
    uint16_t value;
    std::memcpy(&value, current->shared_at(address, 2), 2);
    return value;
  }
};

}  // namespace emulation

namespace cuda {

struct TensorMap {
  const char* data;
  int64 stride;
  int rows, width_bytes, box_rows;
};
inline TensorMap tensor_map(const char* data, int64 stride, int rows, int width_bytes, int box_rows) {
  using emulation::require;
  require(reinterpret_cast<uintptr_t>(data) % 16 == 0 && stride % 16 == 0,
          "tensor map: address or row stride is not a multiple of 16");
  require(box_rows <= 256 && rows >= 1 && width_bytes >= 2, "tensor map: sizes");
  return {data, stride, rows, width_bytes, box_rows};
}

namespace ptx {

template <int kCount>
void registers_up() {
  static_assert(kCount % 8 == 0 && kCount >= 24 && kCount <= 256, "setmaxnreg");
}
template <int kCount>
void registers_down() {
  static_assert(kCount % 8 == 0 && kCount >= 24 && kCount <= 256, "setmaxnreg");
}

using Barrier = unsigned long long;

inline void barrier_init(Barrier* barrier, int arrivals) {
  current->shared_offset(barrier, 8, 8, "mbarrier");
  current->barriers[barrier].arrivals = current->barriers[barrier].pending = arrivals;
}
inline void fence_for_copies() {
  for (auto& [_, barrier] : current->barriers) barrier.seen_by_copies = true;
}
inline void barrier_arrive(Barrier* barrier) { emulation::barrier_at(barrier).arrive(0); }
inline void barrier_arrive_expecting(Barrier* barrier, int bytes) { emulation::barrier_at(barrier).arrive(bytes); }
inline void barrier_wait(Barrier* barrier, uint32 parity) {
  auto& b = emulation::barrier_at(barrier);
  current->wait_until([&b, parity] { return (b.phase & 1) != parity; });
}

inline void tma_prefetch(const TensorMap*) {}
inline void tma_load(void* to, const TensorMap* map, Barrier* barrier, int byte, int row) {
  auto& b = emulation::barrier_at(barrier);
  emulation::require(b.seen_by_copies, "TMA: the barrier was not fenced for the copy engine");
  const uint32_t start = current->shared_offset(to, map->box_rows * 128, 1024, "TMA");
  const auto copy = [start, map = *map, &b, byte, row] {
    for (int r = 0; r < map.box_rows; ++r)
      for (int piece = 0; piece < 8; ++piece) {
        const int at = byte + piece * 16;
        char* out = current->shared_at(emulation::swizzled(start + r * 128 + piece * 16), 16);
        if (row + r < map.rows && at < map.width_bytes)
          std::memcpy(out, map.data + (row + r) * map.stride + at, 16);
        else
          std::memset(out, 0, 16);
      }
    b.complete(map.box_rows * 128);
  };
  emulation::options.lazy ? current->engine.push_back(copy) : copy();
}

inline uint64_t matrix_descriptor(const void* matrix) {
  return 1ull << 62 | uint64_t{1024 / 16} << 32 | 1ull << 16 | current->shared_offset(matrix, 16, 16, "wgmma") >> 4;
}
inline void wgmma_fence() { current->thread().fenced = true; }

// The groups of a whole warp are kept by its first lane.
inline void wgmma_commit() {
  int none = 0;
  emulation::Groups& products = current->leader().products;
  current->together("wgmma_commit", 32, none, [&](auto&) { products.commit(); });
}
template <int kPending>
void wgmma_wait(float (&)[128]) {
  int none = 0;
  emulation::Groups& products = current->leader().products;
  current->together("wgmma_wait", 32, none, [&](auto&) { products.wait(kPending); });
  current->thread().fenced = false;
}

// 16 rows by 256 columns, for the warp whose first row is `row` of the matrix a.
template <class T>
void multiply_warp(float* const (&d)[32], const emulation::Matrix& a, const emulation::Matrix& b, int row) {
  double left[16][16];
  std::vector<double> right(256 * 16);
  for (int i = 0; i < 16; ++i)
    for (int k = 0; k < 16; ++k) left[i][k] = element<T>(a.at(row + i, k), 0);
  for (int j = 0; j < 256; ++j)
    for (int k = 0; k < 16; ++k) right[j * 16 + k] = element<T>(b.at(j, k), 0);
  for (int l = 0; l < 32; ++l)
    for (int p = 0; p < 128; ++p) {
      const int i = l / 4 + p / 2 % 2 * 8, j = p / 4 * 8 + l % 4 * 2 + p % 2;
      double sum = d[l][p];
      for (int k = 0; k < 16; ++k) sum += left[i][k] * right[j * 16 + k];
      d[l][p] = static_cast<float>(sum);
    }
}

template <class T>
void wgmma(float (&d)[128], uint64_t a, uint64_t b) {
  struct {
    float* d;
    uint64_t a, b;
    bool fenced;
    emulation::Thread* thread;
  } mine{d, a, b, current->thread().fenced, &current->thread()};
  current->together("wgmma", 128, mine, [](auto& lanes) {
    for (auto* l : lanes) {
      emulation::require(l->a == lanes[0]->a && l->b == lanes[0]->b, "wgmma: the threads' descriptors differ");
      emulation::require(l->fenced, "wgmma: no wgmma.fence before it");
    }
    const emulation::Matrix left(lanes[0]->a), right(lanes[0]->b);
    for (int warp = 0; warp < 4; ++warp) {
      struct {
        float* d[32];
      } registers;
      for (int l = 0; l < 32; ++l) registers.d[l] = lanes[warp * 32 + l]->d;
      lanes[warp * 32]->thread->products.add([=] { multiply_warp<T>(registers.d, left, right, warp * 16); });
    }
  });
}

}  // namespace ptx
}  // namespace cuda
}  // namespace clipfast
