#include "kernels/cuda/add_blocks.h"

#include "kernels/cuda/launch.cuh"

namespace headway::cuda {
namespace {

__global__ void add_blocks_kernel(const float* partial, int64_t blocks, int64_t N, float* sums,
                                  bool accumulate) {
  const int64_t n = static_cast<int64_t>(blockIdx.x) * blockDim.x + threadIdx.x;
  if (n >= N) return;
  float sum = 0;
  for (int64_t b = 0; b < blocks; ++b) sum += partial[b * N + n];
  sums[n] = accumulate ? sums[n] + sum : sum;
}

}  // namespace

void add_blocks(const float* partial, int64_t blocks, int64_t N, float* sums, bool accumulate,
                Stream& stream) {
  if (N == 0) return;
  add_blocks_kernel<<<blocks_for(N, 256), 256, 0, stream.native()>>>(partial, blocks, N, sums, accumulate);
  check_launch("add_blocks");
}

}  // namespace headway::cuda
