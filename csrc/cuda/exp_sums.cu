// Partial row and column sums (and maxima) of e_ij = 2^(z_log2_ij - shift_log2) over one tile; the exponentials are never
// stored.
#include "gemm.h"
#include "logits.h"
#include "reduce.h"

namespace clipfast {
namespace cuda {
namespace {

// For a batch that is computed elsewhere: the sums that the host reads are defined all the same.
__device__ void clear(float* values, int64 count) {
  const int64 threads = static_cast<int64>(gridDim.x) * blockDim.x;
  for (int64 k = static_cast<int64>(blockIdx.x) * blockDim.x + threadIdx.x; values != nullptr && k < count; k += threads)
    values[k] = 0.0f;
}

template <class Gemm>
__device__ void clear_all(const Tile& t, const ExpSums& s) {
  const int64 rows = static_cast<int64>(blocks_along(t.n, Gemm::kBlockN)) * t.m;
  const int64 cols = static_cast<int64>(blocks_along(t.m, Gemm::kBlockM)) * t.n;
  clear(s.row_sum, rows);
  clear(s.row_max, rows);
  clear(s.col_sum, cols);
  clear(s.col_max, cols);
}

template <class Gemm>
__global__ void __launch_bounds__(Gemm::kThreads, Gemm::kBlocksPerSm)
    exp_sums_kernel(const __grid_constant__ typename Gemm::Operands operands, const __grid_constant__ Tile t,
                    const __grid_constant__ ExpSums s) {
  if (*s.shift_log2 == ptx::kInfinity) return clear_all<Gemm>(t, s);
  Gemm::run(operands, t, {t.col_inverse_norm}, [&](typename Gemm::Accumulators& f, Block block, const Shared& shared) {
    float* scratch = reinterpret_cast<float*>(shared.scratch);
    to_logits<Gemm>(f, t, shared, block, -static_cast<float>(*s.shift_log2));
    f.each([](float z_log2) { return ptx::exp2(z_log2); });
    reduce_rows<Sum, Gemm>(f, scratch, s.row_sum, block, t.m);
    if (s.col_sum) reduce_cols<Sum, Gemm>(f, scratch, s.col_sum, block, t.n);
    if (s.row_max) reduce_rows<Max, Gemm>(f, scratch, s.row_max, block, t.m);
    if (s.col_max) reduce_cols<Max, Gemm>(f, scratch, s.col_max, block, t.n);
  });
}

}  // namespace

void exp_sums(const Tile& t, const ExpSums& s, const Device& device) {
  with_gemm<Scratch::kSums>(t, device, [&](auto gemm) {
    using Gemm = decltype(gemm);
    launch(exp_sums_kernel<Gemm>, Gemm::grid(t, device), Gemm::kThreads, Gemm::shared_bytes(), device, Gemm::operands(t), t, s);
  });
}

}  // namespace cuda
}  // namespace clipfast
