// Every PTX instruction that the kernels use, one small function each. csrc/emulation offers the same functions on the CPU.
#pragma once

#include "tensor_map.h"
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
// 1 / x within one unit in the last place, for normal x and 1 / x.
PTX float reciprocal(float x) {
  float y;
  asm("rcp.approx.ftz.f32 %0, %1;" : "=f"(y) : "f"(x));
  return y;
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
  asm volatile("{ .reg .b32 p; cvt.rn.f16x2.f32 p, %2, %1; st.shared.b32 [%0], p; }" ::"r"(shared_address(to)), "f"(x), "f"(y)
               : "memory");
}
PTX void store_pair(BFloat16* to, float x, float y) {
  asm volatile("{ .reg .b32 p; cvt.rn.bf16x2.f32 p, %2, %1; st.shared.b32 [%0], p; }" ::"r"(shared_address(to)), "f"(x), "f"(y)
               : "memory");
}

// --- sm_80: asynchronous copies

// Starts a copy of 16 bytes to shared memory; zeros where not `inside` (`from` is then not read).
PTX void cp_async_16(void* to, const void* from, bool inside) {
  const int bytes = inside ? 16 : 0;
  asm volatile("cp.async.cg.shared.global [%0], [%1], 16, %2;" ::"r"(shared_address(to)), "l"(from), "r"(bytes) : "memory");
}
// The same for 4 bytes.
PTX void cp_async_4(void* to, const void* from, bool inside) {
  const int bytes = inside ? 4 : 0;
  asm volatile("cp.async.ca.shared.global [%0], [%1], 4, %2;" ::"r"(shared_address(to)), "l"(from), "r"(bytes) : "memory");
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

// --- sm_90a: registers per thread, for all of a warpgroup's warps

template <int kCount>
PTX void registers_up() {
  asm volatile("setmaxnreg.inc.sync.aligned.u32 %0;" ::"n"(kCount));
}
template <int kCount>
PTX void registers_down() {
  asm volatile("setmaxnreg.dec.sync.aligned.u32 %0;" ::"n"(kCount));
}

// --- sm_90a: barriers that count arrivals and the bytes of copies, in shared memory

using Barrier = unsigned long long;

PTX void barrier_init(Barrier* barrier, int arrivals) {
  asm volatile("mbarrier.init.shared::cta.b64 [%0], %1;" ::"r"(shared_address(barrier)), "r"(arrivals) : "memory");
}
// Lets the copy engine see the barriers that this thread has initialised.
PTX void fence_for_copies() { asm volatile("fence.proxy.async.shared::cta;" ::: "memory"); }
PTX void barrier_arrive(Barrier* barrier) {
  asm volatile("mbarrier.arrive.shared::cta.b64 _, [%0];" ::"r"(shared_address(barrier)) : "memory");
}
// Arrives, and makes the phase wait for `bytes` more bytes of copies.
PTX void barrier_arrive_expecting(Barrier* barrier, int bytes) {
  asm volatile("mbarrier.arrive.expect_tx.shared::cta.b64 _, [%0], %1;" ::"r"(shared_address(barrier)), "r"(bytes) : "memory");
}
// Waits for the end of the phase of this parity. A fresh barrier is in phase 0, so a wait for parity 1 returns at once.
PTX void barrier_wait(Barrier* barrier, uint32 parity) {
  uint32 done = 0;
  while (!done)
    asm volatile("{ .reg .pred p; mbarrier.try_wait.parity.shared::cta.b64 p, [%1], %2; selp.u32 %0, 1, 0, p; }"
                 : "=r"(done)
                 : "r"(shared_address(barrier)), "r"(parity)
                 : "memory");
}

// --- sm_90a: TMA

// Starts the copy of a box of 128-byte rows, the first at (byte / 2, row), swizzled, zeros beyond the matrix. Its bytes count
// towards `barrier`.
PTX void tma_load(void* to, const TensorMap* map, Barrier* barrier, int byte, int row) {
  asm volatile(
      "cp.async.bulk.tensor.2d.shared::cluster.global.tile.mbarrier::complete_tx::bytes [%0], [%1, {%2, %3}], [%4];" ::"r"(
          shared_address(to)),
      "l"(map), "r"(byte / 2), "r"(row), "r"(shared_address(barrier))
      : "memory");
}
PTX void tma_prefetch(const TensorMap* map) { asm volatile("prefetch.tensormap [%0];" ::"l"(map) : "memory"); }

// --- sm_90a: tensor cores, four warps together

// Rows of 128 bytes, swizzled, 1024 bytes from one group of 8 rows to the next. 2 more is 32 bytes further along the rows.
PTX uint64_t matrix_descriptor(const void* matrix) {
  constexpr uint64_t kSwizzle128 = 1ull << 62, kGroupStride = uint64_t{1024 / 16} << 32, kUnused = 1ull << 16;
  return kSwizzle128 | kGroupStride | kUnused | (shared_address(matrix) & 0x3ffff) >> 4;
}
// Orders the warps' registers before the products that follow.
PTX void wgmma_fence() { asm volatile("wgmma.fence.sync.aligned;" ::: "memory"); }
PTX void wgmma_commit() { asm volatile("wgmma.commit_group.sync.aligned;" ::: "memory"); }
// Waits until at most kPending groups of products are under way. The compiler may not move a use of d above it.
template <int kPending>
PTX void wgmma_wait(float (&d)[128]) {
  asm volatile("wgmma.wait_group.sync.aligned %0;" ::"n"(kPending) : "memory");
#pragma unroll
  for (int k = 0; k < 128; ++k) asm volatile("" : "+f"(d[k])::"memory");
}

// d (64 x 256, this thread's part) += a (64 rows of 32 bytes) * b (256 columns of 32 bytes).
template <class T>
PTX void wgmma(float (&d)[128], uint64_t a, uint64_t b);

#if defined(__CUDA_ARCH_FEAT_SM90_ALL)
#define CLIPFAST_D4(k) "+f"(d[k]), "+f"(d[k + 1]), "+f"(d[k + 2]), "+f"(d[k + 3])
#define CLIPFAST_D16(k) CLIPFAST_D4(k), CLIPFAST_D4(k + 4), CLIPFAST_D4(k + 8), CLIPFAST_D4(k + 12)
#define CLIPFAST_D64(k) CLIPFAST_D16(k), CLIPFAST_D16(k + 16), CLIPFAST_D16(k + 32), CLIPFAST_D16(k + 48)
#define CLIPFAST_D_REGISTERS \
  "%0, %1, %2, %3, %4, %5, %6, %7, %8, %9, %10, %11, %12, %13, %14, %15, %16, %17, %18, %19, %20, %21, " \
  "%22, %23, %24, %25, %26, %27, %28, %29, %30, %31, %32, %33, %34, %35, %36, %37, %38, %39, %40, %41, " \
  "%42, %43, %44, %45, %46, %47, %48, %49, %50, %51, %52, %53, %54, %55, %56, %57, %58, %59, %60, %61, " \
  "%62, %63, %64, %65, %66, %67, %68, %69, %70, %71, %72, %73, %74, %75, %76, %77, %78, %79, %80, %81, " \
  "%82, %83, %84, %85, %86, %87, %88, %89, %90, %91, %92, %93, %94, %95, %96, %97, %98, %99, %100, " \
  "%101, %102, %103, %104, %105, %106, %107, %108, %109, %110, %111, %112, %113, %114, %115, %116, " \
  "%117, %118, %119, %120, %121, %122, %123, %124, %125, %126, %127"
#define CLIPFAST_WGMMA(type)                                                   \
  asm volatile("wgmma.mma_async.sync.aligned.m64n256k16.f32." type "." type    \
               " {" CLIPFAST_D_REGISTERS "}, %128, %129, 1, 1, 1, 0, 0;"       \
               : CLIPFAST_D64(0), CLIPFAST_D64(64)                             \
               : "l"(a), "l"(b)                                                \
               : "memory")
template <>
PTX void wgmma<BFloat16>(float (&d)[128], uint64_t a, uint64_t b) {
  CLIPFAST_WGMMA("bf16");
}
template <>
PTX void wgmma<Half>(float (&d)[128], uint64_t a, uint64_t b) {
  CLIPFAST_WGMMA("f16");
}
#undef CLIPFAST_WGMMA
#undef CLIPFAST_D_REGISTERS
#undef CLIPFAST_D64
#undef CLIPFAST_D16
#undef CLIPFAST_D4
#endif

#undef PTX

}  // namespace ptx
}  // namespace cuda
}  // namespace clipfast
