// The two functions of the sigmoid loss with full relative precision for logits of any size, as in csrc/cpu/loops.h.
#pragma once

#include "device.h"

namespace clipfast {
namespace cuda {

constexpr float kLog2e = 1.44269504088896340736f;

// log(1 + e) for 0 <= e <= 1, as e times a polynomial fitted to log(1 + e) / e: relative error below 2e-7 down to e = 0.
__device__ __forceinline__ float log1p_of(float e) {
  float p = 5.232693627e-03f;
  p = p * e - 2.950523980e-02f;
  p = p * e + 7.822596282e-02f;
  p = p * e - 1.366324723e-01f;
  p = p * e + 1.910600811e-01f;
  p = p * e - 2.484298199e-01f;
  p = p * e + 3.331909776e-01f;
  p = p * e - 4.999949336e-01f;
  p = p * e + 9.999999404e-01f;
  return p * e;
}

__device__ __forceinline__ float softplus(float z) {
  const float size = z < 0.0f ? -z : z;
  return (z < 0.0f ? 0.0f : z) + log1p_of(ptx::exp2(-size * kLog2e));
}

// Where exp(-z) overflows, the result is 0, which is the right limit.
__device__ __forceinline__ float sigmoid_of(float z) { return ptx::reciprocal(1.0f + ptx::exp2(-z * kLog2e)); }

}  // namespace cuda
}  // namespace clipfast
