// Every PTX instruction that the kernels use, one small function each. csrc/emulation/ptx.h offers the same functions on the CPU.
#pragma once

#include "tile.h"

namespace clipfast {
namespace cuda {
namespace ptx {

#define PTX __device__ __forceinline__

constexpr float kInfinity = __builtin_huge_valf();

// --- threads and warps

PTX int lane() { return threadIdx.x % 32; }
PTX float shuffle_xor(float x, int mask) { return __shfl_xor_sync(0xffffffffu, x, mask); }
PTX bool any_lane(bool x) { return __any_sync(0xffffffffu, x); }

// A barrier among `threads` threads of the block; barrier 0 is __syncthreads'.
PTX void named_barrier(int id, int threads) { asm volatile("bar.sync %0, %1;" ::"r"(id), "r"(threads) : "memory"); }

// --- arithmetic

// 2^x with a relative error below 2^-22; results below the smallest normal number are 0.
PTX float exp2(float x) {
  float y;
  asm("ex2.approx.ftz.f32 %0, %1;" : "=f"(y) : "f"(x));
  return y;
}
// x / y within two units in the last place, for y up to 2^126.
PTX float divide(float x, float y) {
  float z;
  asm("div.approx.f32 %0, %1, %2;" : "=f"(z) : "f"(x), "f"(y));
  return z;
}
// To TF32, rounded to nearest: mma.sync itself would drop the low bits.
PTX uint32 round_to_tf32(uint32 x) {
  uint32 y;
  asm("cvt.rna.tf32.f32 %0, %1;" : "=r"(y) : "r"(x));
  return y;
}

// --- shared memory

// The block's dynamic shared memory; TMA's and wgmma's swizzle repeats every 1024 bytes.
PTX char* shared_memory() {
  extern __shared__ __align__(1024) char dynamic_shared_memory[];
  return dynamic_shared_memory;
}
PTX uint32 shared_address(const void* pointer) { return static_cast<uint32>(__cvta_generic_to_shared(pointer)); }

PTX void store_pair(float* to, float x, float y) { *reinterpret_cast<float2*>(to) = make_float2(x, y); }
PTX void store_pair(Half* to, float x, float y) {
  asm("{ .reg .b32 p; cvt.rn.f16x2.f32 p, %2, %1; st.shared.b32 [%0], p; }" ::"r"(shared_address(to)), "f"(x), "f"(y) : "memory");
}
PTX void store_pair(BFloat16* to, float x, float y) {
  asm("{ .reg .b32 p; cvt.rn.bf16x2.f32 p, %2, %1; st.shared.b32 [%0], p; }" ::"r"(shared_address(to)), "f"(x), "f"(y) : "memory");
}

// --- sm_80: asynchronous copies

// Starts a copy of 16 bytes to shared memory; zeros where not `inside` (`from` is then not read).
PTX void cp_async_16(void* to, const void* from, bool inside) {
  asm volatile("cp.async.cg.shared.global [%0], [%1], 16, %2;" ::"r"(shared_address(to)), "l"(from), "r"(inside ? 16 : 0) : "memory");
}
// Closes the group of copies that this thread has started since the last one.
PTX void cp_async_commit() { asm volatile("cp.async.commit_group;" ::: "memory"); }
// Waits until at most kPending of this thread's groups are under way.
template <int kPending>
PTX void cp_async_wait() {
  asm volatile("cp.async.wait_group %0;" ::"n"(kPending) : "memory");
}

// --- sm_80: tensor cores

// Four 8 x 16 byte matrices from shared memory: lane l gives the address of row l % 8 of matrix l / 8, and receives in r[k] the
// four bytes l % 4 of row l / 4 of matrix k. float32 is rounded to TF32.
template <class T>
PTX void load_matrices(uint32 (&r)[4], const void* row) {
  asm volatile("ldmatrix.sync.aligned.m8n8.x4.shared.b16 {%0, %1, %2, %3}, [%4];"
               : "=r"(r[0]), "=r"(r[1]), "=r"(r[2]), "=r"(r[3])
               : "r"(shared_address(row))
               : "memory");
  if (sizeof(T) == 4)
    for (int k = 0; k < 4; ++k) r[k] = round_to_tf32(r[k]);
}

// c (16 x 8) += a (16 rows of 32 bytes) * b (8 columns of 32 bytes).
#define CLIPFAST_MMA(type, shape)                                                                    \
  asm("mma.sync.aligned." shape ".row.col.f32." type "." type                                        \
      ".f32 {%0, %1, %2, %3}, {%4, %5, %6, %7}, {%8, %9}, {%0, %1, %2, %3};"                         \
      : "+f"(c[0]), "+f"(c[1]), "+f"(c[2]), "+f"(c[3])                                               \
      : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b[0]), "r"(b[1]))
template <class T>
PTX void mma(float* c, const uint32* a, const uint32* b);
template <>
PTX void mma<BFloat16>(float* c, const uint32* a, const uint32* b) {
  CLIPFAST_MMA("bf16", "m16n8k16");
}
template <>
PTX void mma<Half>(float* c, const uint32* a, const uint32* b) {
  CLIPFAST_MMA("f16", "m16n8k16");
}
template <>
PTX void mma<float>(float* c, const uint32* a, const uint32* b) {
  CLIPFAST_MMA("tf32", "m16n8k8");
}
#undef CLIPFAST_MMA

}  // namespace ptx
}  // namespace cuda
}  // namespace clipfast
