// out_ij = 2^(z_ij - shift) * (u_i + v_j) * row_inner_i * col_inner_j, 0 where excluded, in the features' dtype.
#include "gemm.h"
#include "logits.h"
#include "store.h"

namespace clipfast {
namespace cuda {
namespace {

// e -> e * (u_i + v_j) * (a_i * b_j), in place.
template <class Gemm>
__device__ __forceinline__ void weigh(typename Gemm::Accumulators& f, const Tile& t, const SoftmaxWeights& w, Block block) {
  using F = typename Gemm::Accumulators;
  const int row = block.m * Gemm::kBlockM + f.first_row, col = block.n * Gemm::kBlockN + f.first_col;
  float u[F::kRows], a[F::kRows];
#pragma unroll
  for (int r = 0; r < F::kRows; ++r) {
    u[r] = value_or(w.u, row + F::row_step(r), t.m, 0.0f);
    a[r] = value_or(w.row_inner, row + F::row_step(r), t.m, 1.0f);
  }
#pragma unroll
  for (int c = 0; c < F::kCols; ++c) {
    const float v = value_or(w.v, col + F::col_step(c), t.n, 0.0f), b = value_or(w.col_inner, col + F::col_step(c), t.n, 1.0f);
#pragma unroll
    for (int r = 0; r < F::kRows; ++r) f(r, c) *= (u[r] + v) * (a[r] * b);
  }
}

template <class Gemm>
__global__ void __launch_bounds__(Gemm::kThreads, Gemm::kBlocksPerSm)
    softmax_weights_kernel(const __grid_constant__ typename Gemm::Operands operands, const __grid_constant__ Tile t,
                           const __grid_constant__ SoftmaxWeights w) {
  if (*w.shift == ptx::kInfinity) return;
  Gemm::run(operands, t, [&](typename Gemm::Accumulators& f, Block block, char* scratch) {
    to_logits<Gemm>(f, t, block, -static_cast<float>(*w.shift));
    f.each([](float z) { return ptx::exp2(z); });
    weigh<Gemm>(f, t, w, block);
    store_block<Gemm>(f, scratch, w.out, w.out_stride, block, t.m, t.n);
  });
}

}  // namespace

void softmax_weights(const Tile& t, const SoftmaxWeights& w, const Device& device) {
  with_gemm<Scratch::kStore>(t, device, [&](auto gemm) {
    using Gemm = decltype(gemm);
    launch(softmax_weights_kernel<Gemm>, Gemm::grid(t, device), Gemm::kThreads, Gemm::shared_bytes(), device, Gemm::operands(t), t, w);
  });
}

}  // namespace cuda
}  // namespace clipfast
