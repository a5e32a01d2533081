// out_ij = 2^(z_log2_ij - shift_log2) * (u_i + v_j) * row_inner_i * col_inner_j, 0 where excluded, in the features' dtype.
#include "gemm.h"
#include "logits.h"
#include "store.h"
#include "weigh.h"

namespace clipfast {
namespace cuda {
namespace {

template <class Gemm>
__global__ void __launch_bounds__(Gemm::kThreads, Gemm::kBlocksPerSm)
    softmax_weights_kernel(const __grid_constant__ typename Gemm::Operands operands, const __grid_constant__ Tile t,
                           const __grid_constant__ SoftmaxWeights w) {
  if (*w.shift_log2 == ptx::kInfinity) return;
  Gemm::run(operands, t, {t.col_inverse_norm, w.col_inner, w.v},
            [&](typename Gemm::Accumulators& f, Block block, const Shared& shared) {
              to_logits<Gemm>(f, t, shared, block, -static_cast<float>(*w.shift_log2));
              f.each([](float z_log2) { return ptx::exp2(z_log2); });
              weigh<true, Gemm>(f, w.u, w.row_inner, t.m, shared, block);
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
