// HEADWAY_HD marks a function that runs on the host and in CUDA kernels alike.
#pragma once

#ifdef __CUDACC__
#define HEADWAY_HD __host__ __device__ inline
#else
#define HEADWAY_HD inline
#endif
