// Partial row sums of softplus(z_ij) and sigmoid(z_ij) over one tile, and where gradients are wanted
// out_ij = sigmoid(z_ij) * upstream_i * row_inner_i * col_inner_j in the features' dtype, 0 where excluded.
#include "gemm.h"
#include "logits.h"
#include "math.h"
#include "reduce.h"
#include "store.h"
#include "weigh.h"

namespace clipfast {
namespace cuda {
namespace {

template <class Gemm>
__global__ void __launch_bounds__(Gemm::kThreads, Gemm::kBlocksPerSm)
    sigmoid_kernel(const __grid_constant__ typename Gemm::Operands operands, const __grid_constant__ Tile t,
                   const __grid_constant__ Sigmoid s) {
  using Accumulators = typename Gemm::Accumulators;
  Gemm::run(operands, t, {t.col_inverse_norm, s.col_inner}, [&](Accumulators& f, Block block, const Shared& shared) {
    float* scratch = reinterpret_cast<float*>(shared.scratch);
    to_logits<Gemm>(f, t, shared, block, static_cast<float>(*s.bias));
    reduce_rows<Sum, Gemm>(f, scratch, s.row_loss, block, t.m, [](float z) { return softplus(z); });
    if (!s.row_sigmoid_sum && !s.out) return;
    f.each([](float z) { return sigmoid_of(z); });
    if (s.row_sigmoid_sum) reduce_rows<Sum, Gemm>(f, scratch, s.row_sigmoid_sum, block, t.m);
    if (!s.out) return;
    weigh<false, Gemm>(f, s.upstream, s.row_inner, t.m, shared, block);
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
