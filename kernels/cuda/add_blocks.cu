#include "kernels/cuda/add_blocks.h"

#include "kernels/cuda/launch.cuh"

namespace headway::cuda {
namespace {

// A column's blocks lie a row apart, so what counts is how many of them are asked for at once.
constexpr int kColumns = 16, kParts = 64;

/// A column's blocks are summed in so many parts, and then the parts.
__global__ void __launch_bounds__(kColumns* kParts)
    add_blocks_kernel(int64_t blocks, int64_t N, BlockSums first, BlockSums second) {
  __shared__ float parts[kParts][kColumns];
  cudaGridDependencySynchronize();  // the kernel before has written partial
  const BlockSums to = blockIdx.y == 0 ? first : second;
  const int64_t n = static_cast<int64_t>(blockIdx.x) * kColumns + threadIdx.x;
  float sum = 0;
  if (n < N)
#pragma unroll 8
    for (int64_t b = threadIdx.y; b < blocks; b += kParts) sum += to.partial[b * N + n];
  parts[threadIdx.y][threadIdx.x] = sum;
  __syncthreads();
  if (threadIdx.y != 0 || n >= N) return;
#pragma unroll
  for (int part = 1; part < kParts; ++part) sum += parts[part][threadIdx.x];
  to.sums[n] = to.accumulate ? to.sums[n] + sum : sum;
}

}  // namespace

void add_blocks(int64_t blocks, int64_t N, BlockSums first, BlockSums second, Stream& stream) {
  if (N == 0) return;
  // Its blocks may be placed while those of the kernel before end, which saves a launch's delay.
  cudaLaunchAttribute early{};
  early.id = cudaLaunchAttributeProgrammaticStreamSerialization;
  early.val.programmaticStreamSerializationAllowed = 1;
  cudaLaunchConfig_t config{};
  config.gridDim = dim3(blocks_for(N, kColumns), second.sums ? 2 : 1);
  config.blockDim = dim3(kColumns, kParts);
  config.stream = stream.native();
  config.attrs = &early;
  config.numAttrs = 1;
  check_cuda(cudaLaunchKernelEx(&config, add_blocks_kernel, blocks, N, first, second), "add_blocks");
}

void add_blocks(const float* partial, int64_t blocks, int64_t N, float* sums, bool accumulate,
                Stream& stream) {
  add_blocks(blocks, N, {partial, sums, accumulate}, {}, stream);
}

}  // namespace headway::cuda
