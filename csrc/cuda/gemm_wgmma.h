#pragma once
#include "gemm_mma.h"
namespace clipfast { namespace cuda {
template <class T, Scratch kScratch> using WgmmaGemm = MmaGemm<T, kScratch>;
}}
