// The functions of csrc/cuda/ptx.h and launch.h on the CPU, so that the same kernel source runs there. Each checks what the
// hardware demands, and ends the program where a kernel breaks a rule. Products are exact and summed in double; a tensor core's
// own rounding of the sums is not modelled.
#pragma once

#include <cmath>
#include <cstring>

#include "../cuda/tile.h"
#include "block.h"
#include "numbers.h"

#define __device__
#define __host__
#define __global__
#define __forceinline__ inline
#define __launch_bounds__(...)
#define __grid_constant__
#define threadIdx (::clipfast::emulation::Index{::clipfast::emulation::current->thread().index, 0, 0})
#define blockIdx (::clipfast::emulation::current->block)
#define gridDim (::clipfast::emulation::current->grid)
#define blockDim (::clipfast::emulation::current->size)
#define __syncthreads() ::clipfast::emulation::current->sync(0, static_cast<int>(::clipfast::emulation::current->size.x))

namespace clipfast {
namespace cuda {

template <class... Parameters, class... Values>
void launch(void (*kernel)(Parameters...), int blocks, int threads, int shared_bytes, const Device&, const Values&... values) {
  emulation::require(shared_bytes <= 227 * 1024, "more shared memory than a block can have");
  for (int k = 0; k < blocks; ++k) {
    emulation::Block block({static_cast<unsigned>(k)}, {static_cast<unsigned>(blocks)}, threads, shared_bytes);
    block.run([&] { kernel(values...); });
  }
}

namespace ptx {

using emulation::current;

constexpr float kInfinity = __builtin_huge_valf();

inline int lane() { return static_cast<int>(threadIdx.x % 32); }

inline float shuffle_xor(float x, int mask) {
  struct {
    float x;
    int mask;
    float result;
  } mine{x, mask, 0.0f};
  current->together("shuffle_xor", 32, mine, [](auto& lanes) {
    for (int l = 0; l < 32; ++l) lanes[l]->result = lanes[l ^ lanes[l]->mask]->x;
  });
  return mine.result;
}
inline bool any_lane(bool x) {
  struct {
    bool x, result;
  } mine{x, false};
  current->together("any_lane", 32, mine, [](auto& lanes) {
    bool any = false;
    for (auto* l : lanes) any = any || l->x;
    for (auto* l : lanes) l->result = any;
  });
  return mine.result;
}
inline void named_barrier(int id, int threads) { current->sync(id, threads); }

inline float exp2(float x) {
  const float y = std::exp2(x);
  return y < 1.17549435e-38f ? 0.0f : y;
}
inline float reciprocal(float x) { return 1.0f / x; }

inline char* shared_memory() { return current->shared; }

inline void store_pair(float* to, float x, float y) {
  current->shared_offset(to, 8, 8, "store_pair");
  to[0] = x, to[1] = y;
}
inline void store_pair(Half* to, float x, float y) {
  current->shared_offset(to, 4, 4, "store_pair");
  to[0].bits = emulation::to_half(x), to[1].bits = emulation::to_half(y);
}
inline void store_pair(BFloat16* to, float x, float y) {
  current->shared_offset(to, 4, 4, "store_pair");
  to[0].bits = emulation::to_bfloat16(x), to[1].bits = emulation::to_bfloat16(y);
}

template <class Copy>
void start_copy(const Copy& copy) {
  emulation::options.lazy ? current->thread().copies.add(copy) : copy();
}
inline void cp_async_16(void* to, const void* from, bool inside) {
  current->shared_offset(to, 16, 16, "cp.async");
  emulation::require(reinterpret_cast<uintptr_t>(from) % 16 == 0, "cp.async: source not aligned to 16");
  start_copy([=] { inside ? std::memcpy(to, from, 16) : std::memset(to, 0, 16); });
}
inline void cp_async_4(void* to, const void* from, bool inside) {
  current->shared_offset(to, 4, 4, "cp.async");
  emulation::require(reinterpret_cast<uintptr_t>(from) % 4 == 0, "cp.async: source not aligned to 4");
  start_copy([=] { inside ? std::memcpy(to, from, 4) : std::memset(to, 0, 4); });
}
inline void cp_async_commit() { current->thread().copies.commit(); }
template <int kPending>
void cp_async_wait() {
  current->thread().copies.wait(kPending);
}

template <class T>
void load_matrices(uint32 (&r)[4], const void* row) {
  struct {
    uint32* r;
    const char* row;
  } mine{r, static_cast<const char*>(row)};
  current->shared_offset(row, 16, 16, "ldmatrix");
  current->together("ldmatrix", 32, mine, [](auto& lanes) {
    for (int matrix = 0; matrix < 4; ++matrix) {
      unsigned groups = 0;  // of banks; eight rows of 16 bytes fill all of them, or some come in a second pass
      for (int i = 0; i < 8; ++i) groups |= 1u << (lanes[matrix * 8 + i]->row - current->shared) / 16 % 8;
      emulation::bank_conflicts += groups != 0xff;
      for (int l = 0; l < 32; ++l) std::memcpy(&lanes[l]->r[matrix], lanes[matrix * 8 + l / 4]->row + l % 4 * 4, 4);
    }
  });
  if (sizeof(T) == 4)
    for (uint32& x : r) x = emulation::rounded_to_tf32(x);
}

// Element k of a register's 32 bits.
template <class T>
float element(uint32 bits, int k);
template <>
inline float element<BFloat16>(uint32 bits, int k) {
  return emulation::from_bfloat16(static_cast<uint16_t>(bits >> 16 * k));
}
template <>
inline float element<Half>(uint32 bits, int k) {
  return emulation::from_half(static_cast<uint16_t>(bits >> 16 * k));
}
template <>
inline float element<float>(uint32 bits, int) {
  return emulation::truncated_to_tf32(bits);
}

// Lane l holds rows l / 4 and l / 4 + 8 of a, column l / 4 of b, and of both the 4 bytes l % 4 of each half of the 32.
template <class T>
void mma(float* c, const uint32* a, const uint32* b) {
  constexpr int kPerWord = 4 / sizeof(T), kDepth = 8 * kPerWord;
  struct {
    float* c;
    const uint32 *a, *b;
  } mine{c, a, b};
  current->together("mma", 32, mine, [](auto& lanes) {
    double left[16][kDepth], right[8][kDepth];
    for (int l = 0; l < 32; ++l)
      for (int half = 0; half < 2; ++half)
        for (int k = 0; k < kPerWord; ++k) {
          const int at = (half * 4 + l % 4) * kPerWord + k;
          left[l / 4][at] = element<T>(lanes[l]->a[half * 2], k);
          left[l / 4 + 8][at] = element<T>(lanes[l]->a[half * 2 + 1], k);
          right[l / 4][at] = element<T>(lanes[l]->b[half], k);
        }
    for (int l = 0; l < 32; ++l)
      for (int p = 0; p < 4; ++p) {
        const int row = l / 4 + p / 2 * 8, col = l % 4 * 2 + p % 2;
        double sum = lanes[l]->c[p];
        for (int k = 0; k < kDepth; ++k) sum += left[row][k] * right[col][k];
        lanes[l]->c[p] = static_cast<float>(sum);
      }
  });
}

}  // namespace ptx
}  // namespace cuda
}  // namespace clipfast

#include "hopper.h"
