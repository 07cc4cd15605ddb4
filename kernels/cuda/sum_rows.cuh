// Sums over rows of what a function gives for each row and column: blocks of rows first, then the sum of
// their sums, so the order of additions is one.
#pragma once

#include <string>

#include "kernels/cuda/add_blocks.h"
#include "kernels/cuda/launch.cuh"

namespace headway::cuda {

inline constexpr int kSumWarps = 8;  // of a block of threads
inline constexpr int64_t kSumRowsPerBlock = 256;

/// partial [blocks,N]; a lane has V neighbouring columns.
template <int V, class F>
__global__ void __launch_bounds__(kSumWarps* kWarp)
    sum_rows_kernel(int64_t rows, int64_t N, F f, float* partial) {
  __shared__ float sums[kSumWarps][kWarp * V];
  cudaTriggerProgrammaticLaunchCompletion();  // add_blocks may be placed as blocks of this kernel end
  const int lane = threadIdx.x % kWarp, warp = threadIdx.x / kWarp;
  const int64_t n = (static_cast<int64_t>(blockIdx.x) * kWarp + lane) * V;
  const int64_t first = static_cast<int64_t>(blockIdx.y) * kSumRowsPerBlock;
  const int64_t last = min(first + kSumRowsPerBlock, rows);
  float sum[V] = {};
  if (n < N)
#pragma unroll 4
    for (int64_t r = first + warp; r < last; r += kSumWarps) {
      float values[V];
      f(r, n, values);
#pragma unroll
      for (int v = 0; v < V; ++v) sum[v] += values[v];
    }
#pragma unroll
  for (int v = 0; v < V; ++v) sums[warp][lane * V + v] = sum[v];
  __syncthreads();
  for (int i = threadIdx.x; i < kWarp * V; i += kSumWarps * kWarp) {
    const int64_t column = static_cast<int64_t>(blockIdx.x) * kWarp * V + i;
    if (column >= N) return;
    float total = 0;
#pragma unroll
    for (int w = 0; w < kSumWarps; ++w) total += sums[w][i];
    partial[blockIdx.y * N + column] = total;
  }
}

/// sums[n] (+)= sum over r < rows of what f(r, n, values) fills in for column n, n < N; f fills in V columns
/// from n, and N is a multiple of V. Uses the stream's scratch. ShapeError for more rows than a launch can
/// take.
template <int V = 1, class F>
void sum_rows(const char* name, int64_t rows, int64_t N, F f, float* sums, bool accumulate, Stream& stream) {
  if (N == 0) return;
  const unsigned blocks = std::max(1u, blocks_for(rows, kSumRowsPerBlock));
  HEADWAY_CHECK(
      blocks <= 65535, ShapeError,
      std::string(name) + ": " + std::to_string(rows) + " rows are more than the GPU kernel can take");
  auto* const partial =
      reinterpret_cast<float*>(stream.scratch(static_cast<size_t>(blocks) * N * sizeof(float)).data());
  sum_rows_kernel<V><<<dim3(blocks_for(N, kWarp * V), blocks), kSumWarps * kWarp, 0, stream.native()>>>(
      rows, N, f, partial);
  check_launch(name);
  add_blocks(partial, blocks, N, sums, accumulate, stream);
}

}  // namespace headway::cuda
