// The CPU tile operations as torch operators on the stable ABI: unpack tensors into tile.h's structs, split the rows over
// torch's threads, reduce the partial column sums in a fixed order. Arguments are checked on the Python side.
#include <torch/csrc/stable/library.h>

#include <algorithm>
#include <vector>

#include "operators.h"

namespace clipfast {
namespace {

constexpr int64 kStrip = 32;  // rows that share one float32 partial column sum

const Loops& best_loops() {
#if defined(__x86_64__)
  if (__builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512dq") && __builtin_cpu_supports("avx512bw") &&
      __builtin_cpu_supports("avx512vl"))
    return kAvx512Loops;
  if (__builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma")) return kAvx2Loops;
#endif
  return kPortableLoops;
}

const Loops* active = &best_loops();

template <class F>
void over_rows(int64 rows, const F& body) {
  const int64 strips = (rows + kStrip - 1) / kStrip;
  torch::stable::parallel_for(0, strips, 1, [&](int64_t first, int64_t last) {
    for (int64 s = first; s < last; ++s) body(s, s * kStrip, std::min<int64>(rows, (s + 1) * kStrip));
  });
}

Tile tile_of(const Tensor& scores, const Tensor& target, int64 row0, int64 col0, const Tensor& row_factor,
             const MaybeTensor& col_factor, const MaybeTensor& excluded) {
  const int64 per_row = excluded ? excluded->size(1) : 0;
  return {data<float>(scores),
          out<float>(target),
          scores.size(1),
          data<double>(row_factor) + row0,
          col_factor ? data<float>(*col_factor) + col0 : nullptr,
          excluded ? data<int64>(*excluded) + row0 * per_row : nullptr,
          per_row,
          col0};
}

void exp_sums(Tensor scores, Tensor target, int64_t row0, int64_t col0, Tensor row_factor, MaybeTensor col_factor,
              MaybeTensor excluded, double shift_log2, Tensor row_sum, MaybeTensor col_sum, MaybeTensor row_max,
              MaybeTensor col_max) {
  const Tile tile = tile_of(scores, target, row0, col0, row_factor, col_factor, excluded);
  const ExpSums sums{shift_log2, out<double>(row_sum) + row0, row_max ? out<float>(*row_max) + row0 : nullptr};
  const int64 rows = scores.size(0), cols = scores.size(1), strips = (rows + kStrip - 1) / kStrip;
  std::vector<float> partial(strips * cols, 0.0f), top(row_max ? strips * cols : 0, 0.0f);
  over_rows(rows, [&](int64 s, int64 first, int64 last) {
    active->exp_sums(tile, sums, first, last, &partial[s * cols], row_max ? &top[s * cols] : nullptr);
  });
  if (!col_sum) return;
  double* sum = out<double>(*col_sum) + col0;
  float* best = col_max ? out<float>(*col_max) + col0 : nullptr;
  for (int64 s = 0; s < strips; ++s)
    for (int64 j = 0; j < cols; ++j) sum[j] += partial[s * cols + j];
  for (int64 s = 0; best && s < strips; ++s)
    for (int64 j = 0; j < cols; ++j) best[j] = std::max(best[j], top[s * cols + j]);
}

void softmax_weights(Tensor scores, Tensor target, int64_t row0, int64_t col0, Tensor row_factor, MaybeTensor col_factor,
                     MaybeTensor row_norm, MaybeTensor excluded, double shift_log2, bool kept, Tensor row_weight,
                     Tensor col_weight) {
  const Tile tile = tile_of(scores, target, row0, col0, row_factor, col_factor, excluded);
  const SoftmaxWeights weights{shift_log2, kept, data<float>(row_weight) + row0, data<float>(col_weight) + col0,
                               row_norm ? data<float>(*row_norm) + row0 : nullptr};
  over_rows(scores.size(0), [&](int64, int64 first, int64 last) { active->softmax_weights(tile, weights, first, last); });
}

void sigmoid(Tensor scores, int64_t row0, int64_t col0, Tensor row_factor, MaybeTensor col_factor, MaybeTensor row_norm,
             MaybeTensor excluded, double bias, bool weights, MaybeTensor row_weight, Tensor row_loss,
             Tensor row_weight_sum) {
  const Tile tile = tile_of(scores, scores, row0, col0, row_factor, col_factor, excluded);
  const Sigmoid s{bias,
                  weights,
                  row_weight ? data<float>(*row_weight) + row0 : nullptr,
                  row_norm ? data<float>(*row_norm) + row0 : nullptr,
                  out<double>(row_loss) + row0,
                  out<double>(row_weight_sum) + row0};
  over_rows(scores.size(0), [&](int64, int64 first, int64 last) { active->sigmoid(tile, s, first, last); });
}

void paired_dots(Tensor x, Tensor y, MaybeTensor partner, Tensor dots) {
  const PairedDots p{data<float>(x), data<float>(y), x.stride(0), y.stride(0), x.size(1), data<int64>(partner), out<double>(dots)};
  over_rows(x.size(0), [&](int64, int64 first, int64 last) { active->paired_dots(p, first, last); });
}

void finish_rows(Tensor grad, Tensor x, MaybeTensor y, MaybeTensor partner, MaybeTensor coef, MaybeTensor projection,
                 double alpha, double scale, Tensor dots) {
  const FinishRows f{out<float>(grad), data<float>(x), data<float>(y), x.stride(0), y ? y->stride(0) : 0, x.size(1),
                     data<int64>(partner), data<double>(coef), data<double>(projection), alpha, scale, out<double>(dots)};
  over_rows(x.size(0), [&](int64, int64 first, int64 last) { active->finish_rows(f, first, last); });
}

void add_transposed(Tensor target, Tensor source) {
  over_rows(target.size(0), [&](int64, int64 first, int64 last) {
    active->add_transposed(out<float>(target), target.stride(0), data<float>(source), source.stride(0), first, last, target.size(1));
  });
}

// level 0 asks; 1, 2, 3 select portable, avx2, avx512 (or the best below); returns the level in force.
int64_t instruction_set(int64_t level) {
  const Loops* all[] = {&kPortableLoops,
#if defined(__x86_64__)
                        &kAvx2Loops, &kAvx512Loops
#endif
  };
  const int64_t count = sizeof(all) / sizeof(all[0]);
  int64_t best = 0, now = 0;
  while (all[best] != &best_loops()) ++best;
  if (level > 0) active = all[std::min({level - 1, best, count - 1})];
  while (all[now] != active) ++now;
  return now + 1;
}

}  // namespace

const Loops& loops() { return *active; }

STABLE_TORCH_LIBRARY(clipfast_cpu, m) {
  m.def("exp_sums(Tensor scores, Tensor(a!) target, int row0, int col0, Tensor row_factor, Tensor? col_factor, "
        "Tensor? excluded, float shift_log2, Tensor(b!) row_sum, Tensor(c!)? col_sum, Tensor(d!)? row_max, "
        "Tensor(e!)? col_max) -> ()");
  m.def("softmax_weights(Tensor scores, Tensor(a!) target, int row0, int col0, Tensor row_factor, Tensor? col_factor, Tensor? row_norm, "
        "Tensor? excluded, float shift_log2, bool kept, Tensor row_weight, Tensor col_weight) -> ()");
  m.def("sigmoid(Tensor(a!) scores, int row0, int col0, Tensor row_factor, Tensor? col_factor, Tensor? row_norm, "
        "Tensor? excluded, float bias, bool weights, Tensor? row_weight, Tensor(b!) row_loss, Tensor(c!) row_weight_sum) "
        "-> ()");
  m.def("paired_dots(Tensor x, Tensor y, Tensor? partner, Tensor(a!) dots) -> ()");
  m.def("finish_rows(Tensor(a!) grad, Tensor x, Tensor? y, Tensor? partner, Tensor? coef, Tensor? projection, float alpha, "
        "float scale, Tensor(b!) dots) -> ()");
  m.def("softmax_single(Tensor(a!) scores, Tensor left, Tensor right, float scale, bool both, bool views, bool normalize, "
        "Tensor(b!) loss, Tensor(c!)? state) -> bool");
  m.def("sigmoid_single(Tensor(a!) scores, Tensor left, Tensor right, float scale, float bias, bool normalize, Tensor(b!) loss, "
        "Tensor(c!)? state, Tensor(d!) by_bias) -> bool");
  m.def("finish_single(Tensor(a!)? by_rows, Tensor(b!)? by_cols, Tensor left, Tensor right, float scale, bool views, "
        "bool normalize, Tensor state, Tensor(c!) by_scale) -> ()");
  m.def("add_transposed(Tensor(a!) target, Tensor source) -> ()");
  m.def("instruction_set(int level) -> int");
}

STABLE_TORCH_LIBRARY_IMPL(clipfast_cpu, CPU, m) {
  m.impl("exp_sums", TORCH_BOX(&exp_sums));
  m.impl("softmax_weights", TORCH_BOX(&softmax_weights));
  m.impl("sigmoid", TORCH_BOX(&sigmoid));
  m.impl("paired_dots", TORCH_BOX(&paired_dots));
  m.impl("finish_rows", TORCH_BOX(&finish_rows));
  m.impl("softmax_single", TORCH_BOX(&softmax_single));
  m.impl("sigmoid_single", TORCH_BOX(&sigmoid_single));
  m.impl("finish_single", TORCH_BOX(&finish_single));
  m.impl("add_transposed", TORCH_BOX(&add_transposed));
}

STABLE_TORCH_LIBRARY_IMPL(clipfast_cpu, CompositeExplicitAutograd, m) {
  m.impl("instruction_set", TORCH_BOX(&instruction_set));
}

}  // namespace clipfast
