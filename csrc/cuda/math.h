// The two functions of the sigmoid loss with full relative precision for logits of any size; mirrors csrc/cpu/loops.h.
#pragma once

#include "device.h"

namespace clipfast {
namespace cuda {

constexpr float kLog2e = 1.44269504088896340736f;

// log(1 + e) for 0 <= e <= 1: 2 atanh(e / (2 + e)), whose series converges like 9^-k.
__device__ __forceinline__ float log1p_of(float e) {
  const float q = ptx::divide(e, 2.0f + e);
  const float q2 = q * q;
  float p = 1.0f / 15.0f;
  p = p * q2 + 1.0f / 13.0f;
  p = p * q2 + 1.0f / 11.0f;
  p = p * q2 + 1.0f / 9.0f;
  p = p * q2 + 1.0f / 7.0f;
  p = p * q2 + 1.0f / 5.0f;
  p = p * q2 + 1.0f / 3.0f;
  p = p * q2 + 1.0f;
  return 2.0f * q * p;
}

// exp(-|z|), from which both follow.
__device__ __forceinline__ float decay(float z) { return ptx::exp2(-(z < 0.0f ? -z : z) * kLog2e); }
__device__ __forceinline__ float softplus(float z, float e) { return (z < 0.0f ? 0.0f : z) + log1p_of(e); }
__device__ __forceinline__ float sigmoid_of(float z, float e) { return ptx::divide(z < 0.0f ? e : 1.0f, 1.0f + e); }

}  // namespace cuda
}  // namespace clipfast
