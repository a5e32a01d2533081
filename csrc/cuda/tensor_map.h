// The description of a matrix that TMA reads. It is made on the host, and travels to the kernel as a parameter.
#pragma once

#include <cuda.h>

#include "launch.h"

namespace clipfast {
namespace cuda {

using TensorMap = CUtensorMap;

// The driver's function by way of the runtime, so that nothing links to libcuda, which only machines with a GPU have.
inline auto encode_function() {
  using Encode = CUresult (*)(CUtensorMap*, CUtensorMapDataType, cuuint32_t, void*, const cuuint64_t*, const cuuint64_t*,
                              const cuuint32_t*, const cuuint32_t*, CUtensorMapInterleave, CUtensorMapSwizzle,
                              CUtensorMapL2promotion, CUtensorMapFloatOOBfill);
  static const Encode encode = [] {
    void* function = nullptr;
    cudaDriverEntryPointQueryResult found;
#if CUDART_VERSION >= 12050
    const cudaError_t error =
        cudaGetDriverEntryPointByVersion("cuTensorMapEncodeTiled", &function, 12000, cudaEnableDefault, &found);
#else
    const cudaError_t error = cudaGetDriverEntryPoint("cuTensorMapEncodeTiled", &function, cudaEnableDefault, &found);
#endif
    check(error, "cuTensorMapEncodeTiled");
    if (found != cudaDriverEntryPointSuccess)
      throw std::runtime_error("clipfast_cuda: the driver has no cuTensorMapEncodeTiled");
    return reinterpret_cast<Encode>(function);
  }();
  return encode;
}

// Boxes of `box_rows` rows by 128 bytes, in TMA's 128-byte swizzle, for elements of 2 bytes.
inline TensorMap tensor_map(const char* data, int64 stride, int rows, int width_bytes, int box_rows) {
  TensorMap map;
  const cuuint64_t size[] = {static_cast<cuuint64_t>(width_bytes / 2), static_cast<cuuint64_t>(rows)};
  const cuuint64_t strides[] = {static_cast<cuuint64_t>(stride)};
  const cuuint32_t box[] = {64, static_cast<cuuint32_t>(box_rows)}, every[] = {1, 1};
  const CUresult result = encode_function()(&map, CU_TENSOR_MAP_DATA_TYPE_UINT16, 2, const_cast<char*>(data), size, strides,
                                            box, every, CU_TENSOR_MAP_INTERLEAVE_NONE, CU_TENSOR_MAP_SWIZZLE_128B,
                                            CU_TENSOR_MAP_L2_PROMOTION_L2_128B, CU_TENSOR_MAP_FLOAT_OOB_FILL_NONE);
  if (result != CUDA_SUCCESS)
    throw std::runtime_error("clipfast_cuda: cuTensorMapEncodeTiled refuses the features, error " +
                             std::to_string(static_cast<int>(result)));
  return map;
}

}  // namespace cuda
}  // namespace clipfast
