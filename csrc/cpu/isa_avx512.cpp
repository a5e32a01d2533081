// The loops for AVX-512; chosen at run time (operators.cpp).
#include "tile.h"

#if defined(__x86_64__)
#if defined(__clang__)
#pragma clang attribute push(__attribute__((target("avx512f,avx512dq,avx512bw,avx512vl,avx2,fma,bmi,bmi2"))), \
                             apply_to = function)
#else
#pragma GCC target("avx512f,avx512dq,avx512bw,avx512vl,avx2,fma,bmi,bmi2,prefer-vector-width=512")
#endif

namespace clipfast {
namespace avx512 {
#include "loops.h"
}
const Loops kAvx512Loops = CLIPFAST_LOOPS(avx512, "avx512");
}  // namespace clipfast

#if defined(__clang__)
#pragma clang attribute pop
#endif
#endif
