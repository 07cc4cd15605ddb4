#include "kernels/cuda/add_blocks.h"

#include "kernels/cuda/launch.cuh"

namespace headway::cuda {
namespace {

constexpr int kColumns = 32, kParts = 8;

/// A column's blocks are summed in so many parts, and then the parts.
__global__ void add_blocks_kernel(const float* partial, int64_t blocks, int64_t N, float* sums,
                                  bool accumulate) {
  __shared__ float parts[kParts][kColumns];
  const int64_t n = static_cast<int64_t>(blockIdx.x) * kColumns + threadIdx.x;
  float sum = 0;
  if (n < N)
#pragma unroll 4
    for (int64_t b = threadIdx.y; b < blocks; b += kParts) sum += partial[b * N + n];
  parts[threadIdx.y][threadIdx.x] = sum;
  __syncthreads();
  if (threadIdx.y != 0 || n >= N) return;
#pragma unroll
  for (int part = 1; part < kParts; ++part) sum += parts[part][threadIdx.x];
  sums[n] = accumulate ? sums[n] + sum : sum;
}

}  // namespace

void add_blocks(const float* partial, int64_t blocks, int64_t N, float* sums, bool accumulate,
                Stream& stream) {
  if (N == 0) return;
  add_blocks_kernel<<<blocks_for(N, kColumns), dim3(kColumns, kParts), 0, stream.native()>>>(
      partial, blocks, N, sums, accumulate);
  check_launch("add_blocks");
}

}  // namespace headway::cuda
