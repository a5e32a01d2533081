// What one tile operation is given, as plain structs of device pointers: shared by the kernels (*.cu) and by the operators
// (operators.cpp, which sees no CUDA header).
//
// What the kernels serve: bfloat16, float16 and float32 features (float32 multiplied as TF32), any numbers of rows and
// columns below 2^31 - 256 each. Base pointers and row strides of the features are multiples of 16 bytes, and so is the width,
// since the copies to shared memory move 16 bytes: D % 8 == 0 for the half dtypes, D % 4 == 0 for float32. The output's row
// stride and base may be any; multiples of 16 bytes are written faster.
#pragma once

#include <cstdint>

namespace clipfast {
namespace cuda {

using int64 = int64_t;
using uint32 = uint32_t;

enum class DType { kBFloat16, kHalf, kFloat };
struct BFloat16 {
  uint16_t bits;
};
struct Half {
  uint16_t bits;
};

// z_ij = row_scale_i * col_inverse_norm_j * <rows_i, cols_j> (+ bias), in the units of row_scale: natural ones for the sigmoid;
// base 2 for the softmax operations, whose row_scale is row_scale_log2 and whose logits are z_log2.
struct Tile {
  const char* rows;              // [m, width_bytes], unit stride within a row
  const char* cols;              // [n, width_bytes]
  int64 row_stride, col_stride;  // bytes
  int m, n, width_bytes;
  DType dtype;
  const double* row_scale;        // [m], the logits' scale times the row's inverse norm, in base 2 divided by log 2
  const float* col_inverse_norm;  // [n] or null for 1
  const int64* excluded;  // [m, excluded_per_row], columns of the whole matrix that are no negatives of a row, -1 for none
  int excluded_per_row;   // 1 or 2
  int64 first_col;        // the tile's first column in the whole matrix
};

// Partial sums of e_ij = 2^(z_log2_ij - shift_log2): each block of the tile writes its own entry, so nothing is added across
// blocks.
struct ExpSums {
  const double* shift_log2;  // on the device, a whole number; infinite: write zeros, the batch is computed elsewhere
  float* row_sum;            // [column blocks, m]
  float* col_sum;            // [row blocks, n] or null
  float* row_max;            // like row_sum, or null
  float* col_max;            // like col_sum, or null
};

// out_ij = e_ij * (u_i + v_j) * row_inner_i * col_inner_j.
struct SoftmaxWeights {
  const double* shift_log2;            // on the device; infinite: leave `out` alone
  const float *u, *v;                  // [m], [n]
  const float *row_inner, *col_inner;  // [m], [n] or null for 1: the part of the inverse norms that enters the weights
  char* out;                           // [m, n] in the features' dtype
  int64 out_stride;                    // bytes
};

// Partial sums of softplus(z_ij) and sigmoid(z_ij); out_ij = sigmoid(z_ij) * upstream_i * row_inner_i * col_inner_j.
struct Sigmoid {
  const double* bias;      // on the device
  const float* upstream;   // [m], the upstream gradient of the row's loss, or null for 1
  const float *row_inner, *col_inner;
  float* row_loss;         // [column blocks, m]
  float* row_sigmoid_sum;  // like row_loss, or null
  char* out;               // [m, n] in the features' dtype, or null
  int64 out_stride;
};

// The device that runs the tile; `stream` is a cudaStream_t.
struct Device {
  int capability;  // 80, 90, ...
  int processors;
  void* stream;
};

// Hopper multiplies the half dtypes with wgmma, in larger blocks. TF32 stays on mma.sync there, since wgmma would truncate
// float32 operands in shared memory where mma.sync lets them be rounded first.
inline bool uses_wgmma(int capability, int element_size) {
#if defined(CLIPFAST_SM90A)
  return capability == 90 && element_size == 2;
#else
  return (void)capability, (void)element_size, false;
#endif
}

// Rows and columns of one block, which size the partial sums.
struct BlockShape {
  int rows, cols;
};
inline BlockShape block_shape(int capability, int element_size) {
  return uses_wgmma(capability, element_size) ? BlockShape{128, 256} : BlockShape{128, 128};
}

#if defined(__CUDACC__)
__host__ __device__
#endif
inline int blocks_along(int extent, int block) { return (extent + block - 1) / block; }

Device device_at(int index, void* stream);
void exp_sums(const Tile&, const ExpSums&, const Device&);
void softmax_weights(const Tile&, const SoftmaxWeights&, const Device&);
void sigmoid(const Tile&, const Sigmoid&, const Device&);

}  // namespace cuda
}  // namespace clipfast
