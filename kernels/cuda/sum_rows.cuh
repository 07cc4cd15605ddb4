// Sums over rows of what a function gives for each row and column: blocks of rows first, then the sum of
// their sums, so the order of additions is one.
#pragma once

#include <string>

#include "kernels/cuda/add_blocks.h"
#include "kernels/cuda/launch.cuh"

namespace headway::cuda {

inline constexpr int kSumColumns = 32, kSumRows = 8;  // of a block of threads
inline constexpr int64_t kSumRowsPerBlock = 256;

/// partial [blocks,N]
template <class F>
__global__ void sum_rows_kernel(int64_t rows, int64_t N, F f, float* partial) {
  __shared__ float sums[kSumRows][kSumColumns];
  const int64_t n = static_cast<int64_t>(blockIdx.x) * kSumColumns + threadIdx.x;
  const int64_t first = static_cast<int64_t>(blockIdx.y) * kSumRowsPerBlock;
  const int64_t last = min(first + kSumRowsPerBlock, rows);
  float sum = 0;
  for (int64_t r = first + threadIdx.y; r < last && n < N; r += kSumRows) sum += f(r, n);
  sums[threadIdx.y][threadIdx.x] = sum;
  __syncthreads();
  if (threadIdx.y != 0 || n >= N) return;
#pragma unroll
  for (int r = 1; r < kSumRows; ++r) sum += sums[r][threadIdx.x];
  partial[blockIdx.y * N + n] = sum;
}

/// sums[n] (+)= sum over r < rows of f(r, n), n < N. Uses the stream's scratch. ShapeError for more rows than
/// a launch can take.
template <class F>
void sum_rows(const char* name, int64_t rows, int64_t N, F f, float* sums, bool accumulate, Stream& stream) {
  if (N == 0) return;
  const unsigned blocks = std::max(1u, blocks_for(rows, kSumRowsPerBlock));
  HEADWAY_CHECK(
      blocks <= 65535, ShapeError,
      std::string(name) + ": " + std::to_string(rows) + " rows are more than the GPU kernel can take");
  auto* const partial =
      reinterpret_cast<float*>(stream.scratch(static_cast<size_t>(blocks) * N * sizeof(float)).data());
  sum_rows_kernel<<<dim3(blocks_for(N, kSumColumns), blocks), dim3(kSumColumns, kSumRows), 0,
                    stream.native()>>>(rows, N, f, partial);
  check_launch(name);
  add_blocks(partial, blocks, N, sums, accumulate, stream);
}

}  // namespace headway::cuda
