// out_ij = 2^(z_ij - shift) * (u_i + v_j) * row_inner_i * col_inner_j, 0 where excluded, in the features' dtype.
#include "gemm.h"
#include "logits.h"
#include "store.h"

namespace clipfast {
namespace cuda {
namespace {

// e -> e * (u_i + v_j) * (a_i * b_j), in place.
template <class Gemm>
__device__ __forceinline__ void weigh(typename Gemm::Accumulators& f, const Tile& t, const SoftmaxWeights& w,
                                      const Shared& shared, Block block) {
  using F = typename Gemm::Accumulators;
  const int row = block.m * Gemm::kBlockM + f.first_row;
  float u[F::kRows], a[F::kRows];
#pragma unroll
  for (int r = 0; r < F::kRows; ++r) {
    u[r] = value_or(w.u, row + F::row_step(r), t.m, 0.0f);
    a[r] = value_or(w.row_inner, row + F::row_step(r), t.m, 1.0f);
  }
#pragma unroll
  for (int c = 0; c < F::kCols; c += 2) {
    const Pair b = column_pair<Gemm>(shared, 1, f, c), v = column_pair<Gemm>(shared, 2, f, c);
#pragma unroll
    for (int r = 0; r < F::kRows; ++r)
#pragma unroll
      for (int k = 0; k < 2; ++k) f(r, c + k) *= (u[r] + v.value[k]) * (a[r] * b.value[k]);
  }
}

template <class Gemm>
__global__ void __launch_bounds__(Gemm::kThreads, Gemm::kBlocksPerSm)
    softmax_weights_kernel(const __grid_constant__ typename Gemm::Operands operands, const __grid_constant__ Tile t,
                           const __grid_constant__ SoftmaxWeights w) {
  if (*w.shift == ptx::kInfinity) return;
  Gemm::run(operands, t, {t.col_factor, w.col_inner, w.v},
            [&](typename Gemm::Accumulators& f, Block block, const Shared& shared) {
              to_logits<Gemm>(f, t, shared, block, -static_cast<float>(*w.shift));
              f.each([](float z) { return ptx::exp2(z); });
              weigh<Gemm>(f, t, w, shared, block);
              store_block<Gemm>(f, shared.scratch, w.out, w.out_stride, block, t.m, t.n);
            });
}

}  // namespace

void softmax_weights(const Tile& t, const SoftmaxWeights& w, const Device& device) {
  with_gemm<Scratch::kStore>(t, device, [&](auto gemm) {
    using Gemm = decltype(gemm);
    launch(softmax_weights_kernel<Gemm>, Gemm::grid(t, device), Gemm::kThreads, Gemm::shared_bytes(), device, Gemm::operands(t),
           t, w);
  });
}

}  // namespace cuda
}  // namespace clipfast
