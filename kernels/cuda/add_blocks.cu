#include "kernels/cuda/add_blocks.h"

#include "kernels/cuda/launch.cuh"

namespace headway::cuda {
namespace {

// A column's blocks lie a row apart, so what counts is how many of them are asked for at once.
constexpr int kColumns = 16, kParts = 64, kGroups = 8;

/// A column's blocks are summed in so many parts, then the parts of a group, then the groups.
__global__ void __launch_bounds__(kColumns* kParts)
    add_blocks_kernel(int64_t blocks, int64_t N, BlockSums first, BlockSums second) {
  __shared__ float parts[kParts][kColumns];
  await_kernel_before();  // the kernel before has written partial
  const BlockSums to = blockIdx.y == 0 ? first : second;
  const int64_t n = static_cast<int64_t>(blockIdx.x) * kColumns + threadIdx.x;
  float sum = 0;
  if (n < N)
#pragma unroll 8
    for (int64_t b = threadIdx.y; b < blocks; b += kParts) sum += to.partial[b * N + n];
  parts[threadIdx.y][threadIdx.x] = sum;
  __syncthreads();
  if (threadIdx.y < kGroups) {
#pragma unroll
    for (int part = kGroups; part < kParts; part += kGroups) sum += parts[threadIdx.y + part][threadIdx.x];
    parts[threadIdx.y][threadIdx.x] = sum;
  }
  __syncthreads();
  if (threadIdx.y != 0 || n >= N) return;
#pragma unroll
  for (int group = 1; group < kGroups; ++group) sum += parts[group][threadIdx.x];
  to.sums[n] = to.accumulate ? to.sums[n] + sum : sum;
}

}  // namespace

void add_blocks(int64_t blocks, int64_t N, BlockSums first, BlockSums second, Stream& stream) {
  if (N == 0) return;
  launch_early("add_blocks", add_blocks_kernel, dim3(blocks_for(N, kColumns), second.sums ? 2 : 1),
               dim3(kColumns, kParts), stream, blocks, N, first, second);
}

void add_blocks(const float* partial, int64_t blocks, int64_t N, float* sums, bool accumulate,
                Stream& stream) {
  add_blocks(blocks, N, {partial, sums, accumulate}, {}, stream);
}

}  // namespace headway::cuda
