// Tensors to pointers, each checked once: a wrong shape or alignment must not reach a kernel.
#pragma once

#include <torch/csrc/stable/tensor.h>
#include <torch/headeronly/core/ScalarType.h>
#include <torch/headeronly/util/Exception.h>

#include <initializer_list>
#include <optional>
#include <string>

#include "tile.h"

namespace clipfast {
namespace cuda {

using torch::headeronly::ScalarType;
using torch::stable::Tensor;
using MaybeTensor = std::optional<Tensor>;

struct Scalar {
  ScalarType type;
  const char* name;
};
template <class T>
constexpr Scalar kScalar = {ScalarType::Float, "float32"};
template <>
constexpr Scalar kScalar<double> = {ScalarType::Double, "float64"};
template <>
constexpr Scalar kScalar<int64> = {ScalarType::Long, "int64"};

inline std::string shape_of(const Tensor& t) {
  std::string text = "(";
  for (int64 k = 0; k < t.dim(); ++k) text += (k ? ", " : "") + std::to_string(t.size(k));
  return text + ")";
}

inline void check_shape(const char* name, const Tensor& t, std::initializer_list<int64> want) {
  bool same = t.dim() == static_cast<int64>(want.size());
  int64 k = 0;
  std::string text;
  for (const int64 size : want) {
    text += (k ? ", " : "") + std::to_string(size);
    same = same && t.size(k++) == size;
  }
  STD_TORCH_CHECK(same, "clipfast_cuda: ", name, " must have the shape (", text, "); got ", shape_of(t));
}

// The data of a dense tensor of `count` elements on the GPU.
template <class T>
T* vector_of(const char* name, const Tensor& t, int64 count) {
  STD_TORCH_CHECK(t.is_cuda() && t.is_contiguous() && t.scalar_type() == kScalar<T>.type, "clipfast_cuda: ", name,
                  " must be contiguous, on the GPU, and ", kScalar<T>.name);
  STD_TORCH_CHECK(t.numel() == count, "clipfast_cuda: ", name, " must have ", count, " elements; got ", t.numel());
  return static_cast<T*>(t.mutable_data_ptr());
}
template <class T>
T* vector_of(const char* name, const MaybeTensor& t, int64 count) {
  return t ? vector_of<T>(name, *t, count) : nullptr;
}

inline DType dtype_of(const Tensor& t) {
  const ScalarType type = t.scalar_type();
  STD_TORCH_CHECK(type == ScalarType::BFloat16 || type == ScalarType::Half || type == ScalarType::Float,
                  "clipfast_cuda: features must be bfloat16, float16 or float32");
  return type == ScalarType::BFloat16 ? DType::kBFloat16 : type == ScalarType::Half ? DType::kHalf : DType::kFloat;
}

struct Features {
  const char* data;
  int64 stride;  // bytes
};

inline Features features(const char* name, const Tensor& t) {
  const int64 bytes = static_cast<int64>(t.element_size());
  STD_TORCH_CHECK(t.is_cuda() && t.dim() == 2 && t.size(0) >= 1 && t.size(1) >= 1 && t.size(0) < (int64{1} << 31) - 256,
                  "clipfast_cuda: ", name, " must be a matrix on the GPU with at least one row; got the shape ",
                  shape_of(t));
  STD_TORCH_CHECK(t.size(1) == 1 || t.stride(1) == 1, "clipfast_cuda: ", name, " must have unit stride in its last dimension");
  const int64 stride = t.size(0) == 1 ? t.size(1) * bytes : t.stride(0) * bytes;
  const char* data = static_cast<const char*>(t.const_data_ptr());
  STD_TORCH_CHECK(t.size(1) * bytes % 16 == 0 && stride % 16 == 0 && stride >= 0 && reinterpret_cast<uintptr_t>(data) % 16 == 0,
                  "clipfast_cuda: ", name,
                  " must have a width, a row stride and an address that are multiples of 16 bytes; got ", t.size(1) * bytes,
                  ", ", stride, " and an address that is ", reinterpret_cast<uintptr_t>(data) % 16, " modulo 16");
  return {data, stride};
}

inline Tile tile_of(const Tensor& rows, const Tensor& cols, const Tensor& row_scale, const MaybeTensor& col_inverse_norm,
                    const Tensor& excluded, int64 first_col) {
  const Features r = features("rows", rows), c = features("cols", cols);
  STD_TORCH_CHECK(rows.size(1) == cols.size(1) && rows.scalar_type() == cols.scalar_type(),
                  "clipfast_cuda: rows and cols must have one width and one dtype");
  const int64 m = rows.size(0), n = cols.size(0);
  STD_TORCH_CHECK((m / 128 + 1) * (n / 128 + 1) < int64{1} << 31,
                  "clipfast_cuda: a tile must have fewer than 2^31 blocks of 128 x 128 pairs; got ", m, " x ", n, " pairs");
  const int64 per_row = excluded.dim() == 2 ? excluded.size(1) : 0;
  STD_TORCH_CHECK(per_row == 1 || per_row == 2, "clipfast_cuda: excluded must have 1 or 2 columns; got the shape ",
                  shape_of(excluded));
  return {r.data,
          c.data,
          r.stride,
          c.stride,
          static_cast<int>(m),
          static_cast<int>(n),
          static_cast<int>(rows.size(1) * static_cast<int64>(rows.element_size())),
          dtype_of(rows),
          vector_of<double>("row_scale", row_scale, m),
          vector_of<float>("col_inverse_norm", col_inverse_norm, n),
          vector_of<int64>("excluded", excluded, m * per_row),
          static_cast<int>(per_row),
          first_col};
}

}  // namespace cuda
}  // namespace clipfast
