// The device as the host sees it: compute capability and number of processors.
#include "device.h"
#include "tile.h"

namespace clipfast {
namespace cuda {
namespace {

int attribute(cudaDeviceAttr which, int device) {
  int value = 0;
  check(cudaDeviceGetAttribute(&value, which, device), "device attribute");
  return value;
}

}  // namespace

Device device_at(int index, void* stream) {
  check(cudaSetDevice(index), "device");  // torch has done so in its own copy of the runtime; this one is linked in
  const int major = attribute(cudaDevAttrComputeCapabilityMajor, index),
            minor = attribute(cudaDevAttrComputeCapabilityMinor, index);
  return {major * 10 + minor, attribute(cudaDevAttrMultiProcessorCount, index), stream};
}

}  // namespace cuda
}  // namespace clipfast
