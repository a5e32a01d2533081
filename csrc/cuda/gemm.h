// Chooses the product for a tile's dtype and the device. Both kinds offer the same interface: `run` hands each consumer thread
// its accumulators, the block's place and scratch memory; `sync` and `thread` count the consumers alone.
#pragma once

#include "device.h"
#include "gemm_mma.h"
#include "gemm_wgmma.h"
#include "tile.h"

namespace clipfast {
namespace cuda {

template <Scratch kScratch, class Body>
void with_gemm(const Tile& t, const Device& device, const Body& body) {
  const bool wgmma = uses_wgmma(device.capability, t.dtype == DType::kFloat ? 4 : 2);
  if (t.dtype == DType::kFloat) return body(MmaGemm<float, kScratch>());
  if (t.dtype == DType::kHalf) return wgmma ? body(WgmmaGemm<Half, kScratch>()) : body(MmaGemm<Half, kScratch>());
  return wgmma ? body(WgmmaGemm<BFloat16, kScratch>()) : body(MmaGemm<BFloat16, kScratch>());
}

}  // namespace cuda
}  // namespace clipfast
