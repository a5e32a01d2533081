// The loops for AVX2; chosen at run time (operators.cpp).
#include "tile.h"

#if defined(__x86_64__)
#if defined(__clang__)
#pragma clang attribute push(__attribute__((target("avx2,fma,bmi,bmi2"))), apply_to = function)
#else
#pragma GCC target("avx2,fma,bmi,bmi2")
#endif

namespace clipfast {
namespace avx2 {
#include "loops.h"
}
const Loops kAvx2Loops = CLIPFAST_LOOPS(avx2, "avx2");
}  // namespace clipfast

#if defined(__clang__)
#pragma clang attribute pop
#endif
#endif
