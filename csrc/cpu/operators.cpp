// The CPU tile operations as torch operators on the stable ABI: unpack the tensors into tile.h's structs, divide the rows among
// torch's threads, add up the partial column sums in a fixed order. Shapes are right by construction on the Python side.
#include <torch/csrc/stable/library.h>

#include <algorithm>
#include <vector>

#include "operators.h"

namespace clipfast {
namespace {

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

// body(strip, first, last) for all strips of rows, divided among torch's threads.
template <class Body>
void over_rows(int64 rows, const Body& body) {
  torch::stable::parallel_for(0, strips(rows), 1, [&](int64_t first, int64_t last) { for_strips(rows, first, last, body); });
}

Tile tile_of(const Tensor& scores, const Tensor& target, int64 first_row, int64 first_col, const Tensor& row_scale,
             const MaybeTensor& col_inverse_norm, const MaybeTensor& excluded) {
  const int64 per_row = excluded ? excluded->size(1) : 0;
  return {data<float>(scores),
          out<float>(target),
          scores.size(1),
          data<double>(row_scale) + first_row,
          data<float>(col_inverse_norm, first_col),
          data<int64>(excluded, first_row * per_row),
          per_row,
          first_col};
}

void exp_sums(Tensor scores, Tensor target, int64_t first_row, int64_t first_col, Tensor row_scale,
              MaybeTensor col_inverse_norm, MaybeTensor excluded, double shift_log2, Tensor row_sum, MaybeTensor col_sum,
              MaybeTensor row_max, MaybeTensor col_max) {
  const Tile tile = tile_of(scores, target, first_row, first_col, row_scale, col_inverse_norm, excluded);
  const ExpSums sums{shift_log2, out<double>(row_sum) + first_row, row_max ? out<float>(*row_max) + first_row : nullptr};
  const int64 rows = scores.size(0), cols = scores.size(1), count = strips(rows);
  std::vector<float> partial_sum(count * cols, 0.0f), partial_max(row_max ? count * cols : 0, 0.0f);
  over_rows(rows, [&](int64 s, int64 first, int64 last) {
    active->exp_sums(tile, sums, first, last, &partial_sum[s * cols], row_max ? &partial_max[s * cols] : nullptr);
  });
  if (col_sum) add_partials(out<double>(*col_sum) + first_col, partial_sum.data(), count, cols);
  if (!col_sum || !col_max) return;
  float* largest = out<float>(*col_max) + first_col;
  for (int64 s = 0; s < count; ++s)
    for (int64 j = 0; j < cols; ++j) largest[j] = std::max(largest[j], partial_max[s * cols + j]);
}

void softmax_weights(Tensor scores, Tensor target, int64_t first_row, int64_t first_col, Tensor row_scale,
                     MaybeTensor col_inverse_norm, MaybeTensor row_inner, MaybeTensor excluded, double shift_log2, bool kept,
                     Tensor u, Tensor v) {
  const Tile tile = tile_of(scores, target, first_row, first_col, row_scale, col_inverse_norm, excluded);
  const SoftmaxWeights weights{shift_log2, kept, data<float>(u) + first_row, data<float>(v) + first_col,
                               data<float>(row_inner, first_row)};
  over_rows(scores.size(0), [&](int64, int64 first, int64 last) { active->softmax_weights(tile, weights, first, last); });
}

void sigmoid(Tensor scores, int64_t first_row, int64_t first_col, Tensor row_scale, MaybeTensor col_inverse_norm,
             MaybeTensor row_inner, MaybeTensor excluded, double bias, bool weights, MaybeTensor upstream, Tensor row_loss,
             Tensor row_sigmoid_sum) {
  const Tile tile = tile_of(scores, scores, first_row, first_col, row_scale, col_inverse_norm, excluded);
  const Sigmoid s{bias,
                  weights,
                  data<float>(upstream, first_row),
                  data<float>(row_inner, first_row),
                  out<double>(row_loss) + first_row,
                  out<double>(row_sigmoid_sum) + first_row};
  over_rows(scores.size(0), [&](int64, int64 first, int64 last) { active->sigmoid(tile, s, first, last); });
}

void paired_dots(Tensor x, Tensor y, MaybeTensor partner, Tensor dots) {
  const PairedDots p{data<float>(x), data<float>(y),       x.stride(0),      y.stride(0),
                     x.size(1),      data<int64>(partner), out<double>(dots)};
  over_rows(x.size(0), [&](int64, int64 first, int64 last) { active->paired_dots(p, first, last); });
}

void finish_rows(Tensor grad, Tensor x, MaybeTensor y, MaybeTensor partner, MaybeTensor positive_pull,
                 MaybeTensor projection, double alpha, double scale, Tensor dots) {
  const FinishRows f{out<float>(grad),     data<float>(x),
                     data<float>(y),       x.stride(0),
                     y ? y->stride(0) : 0, x.size(1),
                     data<int64>(partner), data<double>(positive_pull),
                     data<double>(projection), alpha,
                     scale,                out<double>(dots)};
  over_rows(x.size(0), [&](int64, int64 first, int64 last) { active->finish_rows(f, first, last); });
}

void add_transposed(Tensor target, Tensor source) {
  over_rows(target.size(0), [&](int64, int64 first, int64 last) {
    active->add_transposed(out<float>(target), target.stride(0), data<float>(source), source.stride(0), first, last,
                           target.size(1));
  });
}

// Level 0 asks; 1, 2, 3 select portable, avx2, avx512, or the best below where the machine lacks one. Returns the level in
// force.
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
  m.def("exp_sums(Tensor scores, Tensor(a!) target, int first_row, int first_col, Tensor row_scale, "
        "Tensor? col_inverse_norm, Tensor? excluded, float shift_log2, Tensor(b!) row_sum, Tensor(c!)? col_sum, "
        "Tensor(d!)? row_max, Tensor(e!)? col_max) -> ()");
  m.def("softmax_weights(Tensor scores, Tensor(a!) target, int first_row, int first_col, Tensor row_scale, "
        "Tensor? col_inverse_norm, Tensor? row_inner, Tensor? excluded, float shift_log2, bool kept, Tensor u, "
        "Tensor v) -> ()");
  m.def("sigmoid(Tensor(a!) scores, int first_row, int first_col, Tensor row_scale, Tensor? col_inverse_norm, "
        "Tensor? row_inner, Tensor? excluded, float bias, bool weights, Tensor? upstream, Tensor(b!) row_loss, "
        "Tensor(c!) row_sigmoid_sum) -> ()");
  m.def("paired_dots(Tensor x, Tensor y, Tensor? partner, Tensor(a!) dots) -> ()");
  m.def("finish_rows(Tensor(a!) grad, Tensor x, Tensor? y, Tensor? partner, Tensor? positive_pull, Tensor? projection, "
        "float alpha, float scale, Tensor(b!) dots) -> ()");
  m.def("softmax_single(Tensor(a!) scores, Tensor left, Tensor right, float scale, bool both, bool views, bool normalize, "
        "Tensor(b!) loss, Tensor(c!)? state) -> bool");
  m.def("sigmoid_single(Tensor(a!) scores, Tensor left, Tensor right, float scale, float bias, bool normalize, "
        "Tensor(b!) loss, Tensor(c!)? state, Tensor(d!) by_bias) -> bool");
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
