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
__device__ __forceinline__ void weigh(typename Gemm::Accumulators& f, const Tile& t, const Sigmoid& s, const Shared& shared,
                                      Block block) {
  using F = typename Gemm::Accumulators;
  const int row = block.m * Gemm::kBlockM + f.first_row;
  float g[F::kRows], a[F::kRows];
#pragma unroll
  for (int r = 0; r < F::kRows; ++r) {
    g[r] = value_or(s.row_weight, row + F::row_step(r), t.m, 1.0f);
    a[r] = value_or(s.row_inner, row + F::row_step(r), t.m, 1.0f);
  }
#pragma unroll
  for (int c = 0; c < F::kCols; c += 2) {
    const Pair b = column_pair<Gemm>(shared, 1, f, c);
#pragma unroll
    for (int r = 0; r < F::kRows; ++r)
#pragma unroll
      for (int k = 0; k < 2; ++k) f(r, c + k) *= g[r] * (a[r] * b.value[k]);
  }
}

template <class Gemm>
__global__ void __launch_bounds__(Gemm::kThreads, Gemm::kBlocksPerSm)
    sigmoid_kernel(const __grid_constant__ typename Gemm::Operands operands, const __grid_constant__ Tile t,
                   const __grid_constant__ Sigmoid s) {
  Gemm::run(operands, t, {t.col_factor, s.col_inner}, [&](typename Gemm::Accumulators& f, Block block, const Shared& shared) {
    float* scratch = reinterpret_cast<float*>(shared.scratch);
    to_logits<Gemm>(f, t, shared, block, static_cast<float>(*s.bias));
    reduce_rows<Sum, Gemm>(f, scratch, s.row_loss, block, t.m, [](float z) { return softplus(z); });
    if (!s.row_weight_sum && !s.out) return;
    f.each([](float z) { return sigmoid_of(z); });
    if (s.row_weight_sum) reduce_rows<Sum, Gemm>(f, scratch, s.row_weight_sum, block, t.m);
    if (!s.out) return;
    weigh<Gemm>(f, t, s, shared, block);
    store_block<Gemm>(f, shared.scratch, s.out, s.out_stride, block, t.m, t.n);
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
