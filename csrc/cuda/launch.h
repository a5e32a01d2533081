// Launching a kernel on torch's stream, and the check of what the CUDA runtime answers.
#pragma once

#include <cuda_runtime.h>

#include <stdexcept>
#include <string>

#include "tile.h"

namespace clipfast {
namespace cuda {

inline void check(cudaError_t error, const char* what) {
  if (error != cudaSuccess) throw std::runtime_error(std::string("clipfast_cuda: ") + what + ": " + cudaGetErrorString(error));
}

template <class... Parameters>
void launch(void (*kernel)(Parameters...), int blocks, int threads, int shared_bytes, const Device& device,
            const Parameters&... values) {
  const void* function = reinterpret_cast<const void*>(kernel);
  check(cudaFuncSetAttribute(function, cudaFuncAttributeMaxDynamicSharedMemorySize, shared_bytes), "shared memory");
  void* pointers[] = {const_cast<void*>(static_cast<const void*>(&values))...};
  check(
      cudaLaunchKernel(function, dim3(blocks), dim3(threads), pointers, shared_bytes, static_cast<cudaStream_t>(device.stream)),
      "launch");
}

}  // namespace cuda
}  // namespace clipfast
