// What the host knows about the device, and the choice of the block's shape.
#include "device.h"
#include "gemm.h"

namespace clipfast {
namespace cuda {
namespace {

int attribute(cudaDeviceAttr which) {
  int device = 0, value = 0;
  check(cudaGetDevice(&device), "current device");
  check(cudaDeviceGetAttribute(&value, which, device), "device attribute");
  return value;
}

}  // namespace

Device current_device(void* stream) {
  const int capability = attribute(cudaDevAttrComputeCapabilityMajor) * 10 + attribute(cudaDevAttrComputeCapabilityMinor);
  return {capability, attribute(cudaDevAttrMultiProcessorCount), stream};
}

}  // namespace cuda
}  // namespace clipfast
