"""Who computes a tile: torch expressions, C++ loops on the CPU, Triton and CUDA kernels on a GPU."""
