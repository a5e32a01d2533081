// What one tile operation is given, as plain structs of pointers: the only thing that the loops (loops.h, compiled once per
// instruction set) and the operators (operators.cpp, compiled once) share. Row pointers already point at the tile's first row.
#pragma once

namespace clipfast {

using int64 = __INT64_TYPE__;

constexpr double kLog2e = 1.44269504088896340736;

// A tile of raw dot products and what makes logits of them: z_ij = row_scale_i * col_inverse_norm_j * scores_ij (+ bias), in
// natural units; the softmax operations take z_log2 = z / log 2. `out` may be `scores`.
struct Tile {
  const float* scores;            // [rows, cols], contiguous
  float* out;                     // [rows, cols], contiguous
  int64 cols;
  const double* row_scale;        // [rows], the logits' scale times the row's inverse norm, natural units
  const float* col_inverse_norm;  // [cols] or null for 1
  const int64* excluded;          // [rows, excluded_per_row], columns of the whole matrix that are no negatives, -1 for none
  int64 excluded_per_row;
  int64 first_col;                // the tile's first column in the whole matrix
};

// Sums of e_ij = 2^(z_log2_ij - shift_log2).
struct ExpSums {
  double shift_log2;  // in base 2; a whole number, so that subtracting it is exact
  double* row_sum;    // [rows], added to
  float* row_max;     // [rows] or null
};

// out_ij = e_ij * (u_i + v_j) * row_inner_i * col_inner_j; float32 weights hold whole inverse norms, so col_inner is the tile's
// col_inverse_norm.
struct SoftmaxWeights {
  double shift_log2;
  bool kept;               // `scores` already holds the exponentials of pass 1
  const float *u, *v;      // [rows], [cols]
  const float* row_inner;  // [rows] or null for 1
};

// Sums of softplus(z_ij) and sigmoid(z_ij); out_ij = sigmoid(z_ij) * upstream_i * row_inner_i * col_inner_j.
struct Sigmoid {
  double bias;
  bool weights;             // write `out` and the sums of sigmoids
  const float* upstream;    // [rows], the upstream gradient of the row's loss, or null for 1
  const float* row_inner;   // [rows] or null for 1
  double* row_loss;         // [rows], added to
  double* row_sigmoid_sum;  // [rows], added to
};

// dots_i = <x_i, y_partner(i)>, 0 for a row without a partner.
struct PairedDots {
  const float *x, *y;
  int64 x_stride, y_stride, width;
  const int64* partner;  // [rows], the row of y that belongs to each row of x, -1 for none; null: the same row
  double* dots;          // [rows]
};

// g_i = alpha * grad_i - positive_pull_i * y_partner(i); dots_i = <x_i, g_i>;
// grad_i = scale * (g_i - projection_i * dots_i * x_i).
struct FinishRows {
  float* grad;  // [rows, width], contiguous, in place
  const float *x, *y;
  int64 x_stride, y_stride, width;
  const int64* partner;         // as in PairedDots
  const double* positive_pull;  // [rows], minus the loss's derivative by <x_i, y_partner(i)>, divided by `scale`
  const double* projection;     // [rows], squared inverse norm, 0 where the norm is clamped; null: no normalisation
  double alpha, scale;
  double* dots;  // [rows]
};

// The loops of one instruction set, over rows [first, last). col_sum [cols] is added to, col_max [cols]
// takes the larger; it may be null.
struct Loops {
  const char* name;
  void (*exp_sums)(const Tile&, const ExpSums&, int64 first, int64 last, float* col_sum, float* col_max);
  void (*softmax_weights)(const Tile&, const SoftmaxWeights&, int64 first, int64 last);
  void (*sigmoid)(const Tile&, const Sigmoid&, int64 first, int64 last);
  void (*paired_dots)(const PairedDots&, int64 first, int64 last);
  void (*finish_rows)(const FinishRows&, int64 first, int64 last);
  void (*add_transposed)(float* target, int64 target_stride, const float* source, int64 source_stride, int64 first, int64 last,
                         int64 width);
};

extern const Loops kPortableLoops, kAvx2Loops, kAvx512Loops;

}  // namespace clipfast

#define CLIPFAST_LOOPS(ns, name) \
  {name, ns::exp_sums, ns::softmax_weights, ns::sigmoid, ns::paired_dots, ns::finish_rows, ns::add_transposed}
