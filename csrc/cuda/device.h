// The machine under the kernels: its instructions (ptx.h) and the launch, or the emulation's stand-ins for both.
#pragma once

#if defined(CLIPFAST_EMULATION)
#include "../emulation/ptx.h"
#else
#include <cuda_runtime.h>

#include "launch.h"
#include "ptx.h"
#endif
