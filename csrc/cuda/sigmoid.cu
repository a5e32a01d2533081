// Partial row sums of softplus(z_ij) and sigmoid(z_ij) over one tile, and where gradients are wanted
// out_ij = sigmoid(z_ij) * row_weight_i * row_inner_i * col_inner_j in the features' dtype, 0 where excluded.
#include "gemm.h"
#include "logits.h"
#include "math.h"
#include "reduce.h"
#include "store.h"

namespace clipfast {
namespace cuda {
namespace {

// p -> p * g_i * (a_i * b_j), in place.
template <class Gemm>
__device__ __forceinline__ void weigh(typename Gemm::Accumulators& f, const Tile& t, const Sigmoid& s, Block block) {
  using F = typename Gemm::Accumulators;
  const int row = block.m * Gemm::kBlockM + f.first_row, col = block.n * Gemm::kBlockN + f.first_col;
  float g[F::kRows], a[F::kRows];
#pragma unroll
  for (int r = 0; r < F::kRows; ++r) {
    g[r] = value_or(s.row_weight, row + F::row_step(r), t.m, 1.0f);
    a[r] = value_or(s.row_inner, row + F::row_step(r), t.m, 1.0f);
  }
#pragma unroll
  for (int c = 0; c < F::kCols; ++c) {
    const float b = value_or(s.col_inner, col + F::col_step(c), t.n, 1.0f);
#pragma unroll
    for (int r = 0; r < F::kRows; ++r) f(r, c) *= g[r] * (a[r] * b);
  }
}

template <class Gemm>
__global__ void __launch_bounds__(Gemm::kThreads, Gemm::kBlocksPerSm)
    sigmoid_kernel(const __grid_constant__ typename Gemm::Operands operands, const __grid_constant__ Tile t,
                   const __grid_constant__ Sigmoid s) {
  Gemm::run(operands, t, [&](typename Gemm::Accumulators& f, Block block, char* shared) {
    float* scratch = reinterpret_cast<float*>(shared);
    to_logits<Gemm>(f, t, block, static_cast<float>(*s.bias));
    reduce_rows<Sum, Gemm>(f, scratch, s.row_loss, block, t.m, [](float z) { return softplus(z, decay(z)); });
    if (!s.row_weight_sum && !s.out) return;
    f.each([](float z) { return sigmoid_of(z, decay(z)); });
    if (s.row_weight_sum) reduce_rows<Sum, Gemm>(f, scratch, s.row_weight_sum, block, t.m);
    if (!s.out) return;
    weigh<Gemm>(f, t, s, block);
    store_block<Gemm>(f, shared, s.out, s.out_stride, block, t.m, t.n);
  });
}

}  // namespace

void sigmoid(const Tile& t, const Sigmoid& s, const Device& device) {
  with_gemm<Scratch::kStore>(t, device, [&](auto gemm) {
    using Gemm = decltype(gemm);
    launch(sigmoid_kernel<Gemm>, Gemm::grid(t, device), Gemm::kThreads, Gemm::shared_bytes(), device, Gemm::operands(t), t, s);
  });
}

}  // namespace cuda
}  // namespace clipfast
