// What one tile operation is given, as plain structs of pointers: the only thing that the loops (loops.h, compiled once per
// instruction set) and the operators (operators.cpp, compiled once) share. Row pointers already point at the tile's first row.
#pragma once

namespace clipfast {

using int64 = __INT64_TYPE__;

constexpr double kLog2e = 1.44269504088896340736;

// A tile of raw dot products; z_ij = row_factor_i * col_factor_j * scores_ij (+ bias). `out` may be `scores`.
struct Tile {
  const float* scores;      // [rows, cols], contiguous
  float* out;               // [rows, cols], contiguous
  int64 cols;
  const double* row_factor;  // [rows], the scale times the row's inverse norm
  const float* col_factor;   // [cols], inverse norms, or null
  const int64* excluded;      // [rows, excluded_per_row], columns of the whole matrix, -1 for none
  int64 excluded_per_row;
  int64 first_col;
};

struct ExpSums {
  double shift_log2;  // the shift divided by log 2; an integer, so that subtracting it is exact
  double* row_sum;    // [rows], added to
  float* row_max;     // [rows] or null
};

struct SoftmaxWeights {
  double shift_log2;
  bool kept;                // `scores` already holds the exponentials of pass 1
  const float* row_weight;  // u [rows]
  const float* col_weight;  // v [cols]
  const float* row_norm;    // inverse norms [rows] or null
};

struct Sigmoid {
  double bias;
  bool weights;             // write `out` and the sums of sigmoids
  const float* row_weight;  // [rows] or null for 1
  const float* row_norm;    // inverse norms [rows] or null
  double* row_loss;         // [rows], added to
  double* row_weight_sum;   // [rows], added to
};

struct PairedDots {
  const float *x, *y;
  int64 x_stride, y_stride, width;
  const int64* partner;  // row of y for each row of x, -1 for none; null: the same row
  double* dots;
};

struct FinishRows {
  float* grad;  // [rows, width], contiguous, in place
  const float *x, *y;
  int64 x_stride, y_stride, width;
  const int64* partner;
  const double* coef;        // [rows]
  const double* projection;  // [rows], squared inverse norm, 0 where the norm is clamped; null: no normalisation
  double alpha, scale;
  double* dots;  // [rows]
};

// The loops of one instruction set.
struct Loops {
  const char* name;
  void (*exp_sums)(const Tile&, const ExpSums&, int64 first, int64 last, float* col_sum, float* col_max);
  void (*softmax_weights)(const Tile&, const SoftmaxWeights&, int64 first, int64 last);
  void (*sigmoid)(const Tile&, const Sigmoid&, int64 first, int64 last);
  void (*paired_dots)(const PairedDots&, int64 first, int64 last);
  void (*finish_rows)(const FinishRows&, int64 first, int64 last);
  void (*add_transposed)(float*, int64, const float*, int64, int64 first, int64 last, int64 width);
};

extern const Loops kPortableLoops, kAvx2Loops, kAvx512Loops;

}  // namespace clipfast

#define CLIPFAST_LOOPS(ns, name) {name, ns::exp_sums, ns::softmax_weights, ns::sigmoid, ns::paired_dots, ns::finish_rows, ns::add_transposed}
