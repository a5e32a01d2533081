// What the operator files share: the loops in force, strips of rows, and tensors as checked pointers.
#pragma once

#include <torch/csrc/stable/ops.h>
#include <torch/csrc/stable/tensor.h>

#include <torch/headeronly/util/Exception.h>

#include <algorithm>
#include <optional>

#include "tile.h"

namespace clipfast {

using torch::stable::Tensor;
using MaybeTensor = std::optional<Tensor>;

// The loops of the instruction set in force (operators.cpp).
const Loops& loops();

// A tile's rows are taken in strips, each with its own float32 partial column sums.
constexpr int64 kStrip = 32;  // rows
inline int64 strips(int64 rows) { return (rows + kStrip - 1) / kStrip; }

// body(strip, first, last) for strips [begin, end); the strip is rows [first, last).
template <class Body>
void for_strips(int64 rows, int64 begin, int64 end, const Body& body) {
  for (int64 s = begin; s < end; ++s) body(s, s * kStrip, std::min(rows, (s + 1) * kStrip));
}

// Adds partial sums [count, cols] to `sum` [cols], always in the same order.
inline void add_partials(double* sum, const float* partial, int64 count, int64 cols) {
  for (int64 s = 0; s < count; ++s)
    for (int64 j = 0; j < cols; ++j) sum[j] += partial[s * cols + j];
}

// Every tensor that comes here is dense and of the loops' dtype; another would be read out of bounds.
template <class T>
void check(const Tensor& t) {
  STD_TORCH_CHECK(t.is_contiguous(), "clipfast_cpu: a tensor must be contiguous");
  STD_TORCH_CHECK(t.element_size() == sizeof(T), "clipfast_cpu: a tensor's elements must be of ", sizeof(T), " bytes; got ",
                  t.element_size());
}
template <class T>
const T* data(const Tensor& t) {
  check<T>(t);
  return static_cast<const T*>(t.const_data_ptr());
}
template <class T>
T* out(const Tensor& t) {
  check<T>(t);
  return static_cast<T*>(t.mutable_data_ptr());
}
// From element `first` on, or null.
template <class T>
const T* data(const MaybeTensor& t, int64 first = 0) {
  return t ? data<T>(*t) + first : nullptr;
}

// single.cpp
bool softmax_single(Tensor scores, Tensor left, Tensor right, double scale, bool both, bool views, bool normalize, Tensor loss,
                    MaybeTensor state);
bool sigmoid_single(Tensor scores, Tensor left, Tensor right, double scale, double bias, bool normalize, Tensor loss,
                    MaybeTensor state, Tensor by_bias);
void finish_single(MaybeTensor by_rows, MaybeTensor by_cols, Tensor left, Tensor right, double scale, bool views,
                   bool normalize, Tensor state, Tensor by_scale);

}  // namespace clipfast
