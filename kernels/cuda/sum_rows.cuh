// Sums over rows of what a function gives for each row and column: blocks of rows first, then the sum of
// their sums, so the order of additions is one.
#pragma once

#include "kernels/cuda/add_blocks.h"
#include "kernels/cuda/launch.cuh"

namespace headway::cuda {

inline constexpr int kSumWarps = 32;                      // of a block of threads
inline constexpr int64_t kFewestSumRows = 8 * kSumWarps;  // of a block

/// partial [blocks,N]; a lane has V neighbouring columns. The blocks of a column share its rows evenly.
template <int V, class F>
__global__ void __launch_bounds__(kSumWarps* kWarp)
    sum_rows_kernel(int64_t rows, int64_t N, F f, float* partial) {
  __shared__ float sums[kSumWarps][kWarp * V];
  await_kernel_before();    // the kernel before has written what f reads
  let_next_kernel_begin();  // add_blocks may be placed as blocks of this kernel end
  const int lane = threadIdx.x % kWarp, warp = threadIdx.x / kWarp;
  const int64_t n = (static_cast<int64_t>(blockIdx.x) * kWarp + lane) * V;
  const int64_t first = rows * blockIdx.y / gridDim.y, last = rows * (blockIdx.y + 1) / gridDim.y;
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
/// from n, and N is a multiple of V. Uses the stream's scratch.
template <int V = 1, class F>
void sum_rows(const char* name, int64_t rows, int64_t N, F f, float* sums, bool accumulate, Stream& stream) {
  if (N == 0) return;
  constexpr unsigned kThreads = kSumWarps * kWarp;
  const auto kernel = sum_rows_kernel<V, F>;
  const unsigned columns = blocks_for(N, kWarp * V);
  // As many as run at a time, so that all end together; fewer where a block would have very few rows.
  const unsigned blocks = std::clamp(num_resident_blocks(kernel, kThreads, 0, stream) / columns, 1u,
                                     std::max(1u, blocks_for(rows, kFewestSumRows)));
  auto* const partial =
      reinterpret_cast<float*>(stream.scratch(static_cast<size_t>(blocks) * N * sizeof(float)).data());
  launch_early(name, kernel, dim3(columns, blocks), dim3(kThreads), stream, rows, N, f, partial);
  add_blocks(partial, blocks, N, sums, accumulate, stream);
}

}  // namespace headway::cuda
