// What the operator files share: the loops in force, and tensors as checked pointers.
#pragma once

#include <torch/csrc/stable/ops.h>
#include <torch/csrc/stable/tensor.h>

#include <torch/headeronly/util/Exception.h>

#include <optional>

#include "tile.h"

namespace clipfast {

using torch::stable::Tensor;
using MaybeTensor = std::optional<Tensor>;

// The loops of the instruction set in force (operators.cpp).
const Loops& loops();

// Every tensor that comes here is dense and of the loops' dtype; another would be read out of bounds.
template <class T>
void check(const Tensor& t) {
  STD_TORCH_CHECK(t.is_contiguous(), "clipfast_cpu: a tensor is not contiguous");
  STD_TORCH_CHECK(t.element_size() == sizeof(T), "clipfast_cpu: a tensor has elements of ", t.element_size(), " bytes instead of ",
                  sizeof(T));
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
template <class T>
const T* data(const MaybeTensor& t) {
  return t ? data<T>(*t) : nullptr;
}

// single.cpp
bool softmax_single(Tensor scores, Tensor left, Tensor right, double scale, bool both, bool views, bool normalize, Tensor loss,
                    MaybeTensor state);
bool sigmoid_single(Tensor scores, Tensor left, Tensor right, double scale, double bias, bool normalize, Tensor loss, MaybeTensor state,
                    Tensor by_bias);
void finish_single(MaybeTensor by_rows, MaybeTensor by_cols, Tensor left, Tensor right, double scale, bool views, bool normalize,
                   Tensor state, Tensor by_scale);

}  // namespace clipfast
