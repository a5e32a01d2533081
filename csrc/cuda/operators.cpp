// The CUDA tile operations as torch operators on the stable ABI: check the tensors, unpack them into tile.h's structs, launch
// on torch's current stream. Nothing waits for the device. tile.h says which shapes are served.
#include <torch/csrc/stable/accelerator.h>
#include <torch/csrc/stable/library.h>

#include <dlfcn.h>

#include <algorithm>
#include <string>
#include <vector>

#include "arguments.h"
#include "tile.h"

namespace clipfast {
namespace cuda {
namespace {

// torch's CUDA library is looked up when it is needed: linked, it would keep this file from loading beside a CPU build of
// torch.
void* current_stream(int device) {
  using Getter = AOTITorchError (*)(int32_t, void**);
  static const Getter getter = [] {
    void* library = dlopen("libtorch_cuda.so", RTLD_NOW | RTLD_NOLOAD);
    return library ? reinterpret_cast<Getter>(dlsym(library, "aoti_torch_get_current_cuda_stream")) : nullptr;
  }();
  STD_TORCH_CHECK(getter != nullptr,
                  "clipfast_cuda: torch's CUDA library is not loaded; this is a build of torch without CUDA");
  void* stream = nullptr;
  TORCH_ERROR_CODE_CHECK(getter(device, &stream));
  return stream;
}

// The device of `rows`, made current while it lives.
struct OnDevice {
  explicit OnDevice(const Tensor& rows)
      : guard(rows.get_device_index()), device(device_at(rows.get_device_index(), current_stream(rows.get_device_index()))) {}
  torch::stable::accelerator::DeviceGuard guard;
  Device device;
};

// Partial sums [blocks, length] in float32.
float* partial(const char* name, const Tensor& t, int64 count, int64 length) {
  check_shape(name, t, {count, length});
  return vector_of<float>(name, t, count * length);
}
float* partial(const char* name, const MaybeTensor& t, int64 count, int64 length) {
  return t ? partial(name, *t, count, length) : nullptr;
}

struct Output {
  char* data;
  int64 stride;
};
Output output(const Tensor& out, const Tile& t, const Tensor& rows) {
  check_shape("out", out, {t.m, t.n});
  STD_TORCH_CHECK(out.is_cuda() && out.scalar_type() == rows.scalar_type(),
                  "clipfast_cuda: out must have the features' dtype and device");
  STD_TORCH_CHECK(t.n == 1 || out.stride(1) == 1, "clipfast_cuda: out must have unit stride in its last dimension");
  return {static_cast<char*>(out.mutable_data_ptr()), out.stride(0) * static_cast<int64>(out.element_size())};
}

void exp_sums_of(Tensor rows, Tensor cols, Tensor row_scale_log2, MaybeTensor col_inverse_norm, Tensor excluded,
                 Tensor shift_log2, int64_t first_col, Tensor row_sum, MaybeTensor col_sum, MaybeTensor row_max,
                 MaybeTensor col_max) {
  const OnDevice on(rows);
  const Tile t = tile_of(rows, cols, row_scale_log2, col_inverse_norm, excluded, first_col);
  const BlockShape shape = block_shape(on.device.capability, static_cast<int>(rows.element_size()));
  const int across = blocks_along(t.n, shape.cols), down = blocks_along(t.m, shape.rows);
  exp_sums(
      t,
      {vector_of<double>("shift_log2", shift_log2, 1), partial("row_sum", row_sum, across, t.m),
       partial("col_sum", col_sum, down, t.n), partial("row_max", row_max, across, t.m),
       partial("col_max", col_max, down, t.n)},
      on.device);
}

void softmax_weights_of(Tensor rows, Tensor cols, Tensor row_scale_log2, MaybeTensor col_inverse_norm, MaybeTensor row_inner,
                        MaybeTensor col_inner, Tensor excluded, Tensor shift_log2, Tensor u, Tensor v, int64_t first_col,
                        Tensor out) {
  const OnDevice on(rows);
  const Tile t = tile_of(rows, cols, row_scale_log2, col_inverse_norm, excluded, first_col);
  const Output to = output(out, t, rows);
  softmax_weights(
      t,
      {vector_of<double>("shift_log2", shift_log2, 1), vector_of<float>("u", u, t.m), vector_of<float>("v", v, t.n),
       vector_of<float>("row_inner", row_inner, t.m), vector_of<float>("col_inner", col_inner, t.n), to.data, to.stride},
      on.device);
}

void sigmoid_of(Tensor rows, Tensor cols, Tensor row_scale, MaybeTensor col_inverse_norm, MaybeTensor row_inner,
                MaybeTensor col_inner, Tensor excluded, Tensor bias, MaybeTensor upstream, int64_t first_col, Tensor row_loss,
                MaybeTensor row_sigmoid_sum, MaybeTensor out) {
  const OnDevice on(rows);
  const Tile t = tile_of(rows, cols, row_scale, col_inverse_norm, excluded, first_col);
  const int across = blocks_along(t.n, block_shape(on.device.capability, static_cast<int>(rows.element_size())).cols);
  const Output to = out ? output(*out, t, rows) : Output{nullptr, 0};
  sigmoid(
      t,
      {vector_of<double>("bias", bias, 1), vector_of<float>("upstream", upstream, t.m),
       vector_of<float>("row_inner", row_inner, t.m), vector_of<float>("col_inner", col_inner, t.n),
       partial("row_loss", row_loss, across, t.m), partial("row_sigmoid_sum", row_sigmoid_sum, across, t.m), to.data,
       to.stride},
      on.device);
}

// [rows, columns] of a block, for a compute capability such as 90 and the features' bytes per element.
std::vector<int64_t> tile_shape(int64_t capability, int64_t element_size) {
  const BlockShape shape = block_shape(static_cast<int>(capability), static_cast<int>(element_size));
  return {shape.rows, shape.cols};
}

}  // namespace

STABLE_TORCH_LIBRARY(clipfast_cuda, m) {
  m.def(
      "exp_sums(Tensor rows, Tensor cols, Tensor row_scale_log2, Tensor? col_inverse_norm, Tensor excluded, "
      "Tensor shift_log2, int first_col, Tensor(a!) row_sum, Tensor(b!)? col_sum, Tensor(c!)? row_max, "
      "Tensor(d!)? col_max) -> ()");
  m.def(
      "softmax_weights(Tensor rows, Tensor cols, Tensor row_scale_log2, Tensor? col_inverse_norm, Tensor? row_inner, "
      "Tensor? col_inner, Tensor excluded, Tensor shift_log2, Tensor u, Tensor v, int first_col, Tensor(a!) out) -> ()");
  m.def(
      "sigmoid(Tensor rows, Tensor cols, Tensor row_scale, Tensor? col_inverse_norm, Tensor? row_inner, "
      "Tensor? col_inner, Tensor excluded, Tensor bias, Tensor? upstream, int first_col, Tensor(a!) row_loss, "
      "Tensor(b!)? row_sigmoid_sum, Tensor(c!)? out) -> ()");
  m.def("tile_shape(int capability, int element_size) -> int[]");
}

STABLE_TORCH_LIBRARY_IMPL(clipfast_cuda, CUDA, m) {
  m.impl("exp_sums", TORCH_BOX(&exp_sums_of));
  m.impl("softmax_weights", TORCH_BOX(&softmax_weights_of));
  m.impl("sigmoid", TORCH_BOX(&sigmoid_of));
}

STABLE_TORCH_LIBRARY_IMPL(clipfast_cuda, CompositeExplicitAutograd, m) { m.impl("tile_shape", TORCH_BOX(&tile_shape)); }

}  // namespace cuda
}  // namespace clipfast
