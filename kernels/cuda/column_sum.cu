// Blocks of rows first, then the sum of their sums: one order of additions.
#include "kernels/cuda/add_blocks.h"
#include "kernels/cuda/launch.cuh"
#include "kernels/ops/matmul.h"

namespace headway {
namespace {
using namespace cuda;

constexpr int kColumns = 32, kRows = 8;  // of a block of threads
constexpr int64_t kRowsPerBlock = 256;

template <class T>
__global__ void partial_sums_kernel(const T* x, int64_t M, int64_t N, float* partial) {
  __shared__ float sums[kRows][kColumns];
  const int64_t n = static_cast<int64_t>(blockIdx.x) * kColumns + threadIdx.x;
  const int64_t first = static_cast<int64_t>(blockIdx.y) * kRowsPerBlock;
  const int64_t last = min(first + kRowsPerBlock, M);
  float sum = 0;
  for (int64_t m = first + threadIdx.y; m < last && n < N; m += kRows) sum += to_float(x[m * N + n]);
  sums[threadIdx.y][threadIdx.x] = sum;
  __syncthreads();
  if (threadIdx.y != 0 || n >= N) return;
#pragma unroll
  for (int r = 1; r < kRows; ++r) sum += sums[r][threadIdx.x];
  partial[blockIdx.y * N + n] = sum;
}

template <class T>
void column_sum(const ColumnSum<T>& args, Stream& stream) {
  const int64_t M = args.x.size[0], N = args.x.size[1];
  if (N == 0) return;
  const unsigned row_blocks = std::max(1u, blocks_for(M, kRowsPerBlock));
  HEADWAY_CHECK(row_blocks <= 65535, ShapeError,
                "column_sum: " + std::to_string(M) + " rows are more than the GPU kernel can take");
  auto* const partial =
      reinterpret_cast<float*>(stream.scratch(static_cast<size_t>(row_blocks) * N * sizeof(float)).data());
  partial_sums_kernel<<<dim3(blocks_for(N, kColumns), row_blocks), dim3(kColumns, kRows), 0,
                        stream.native()>>>(args.x.data, M, N, partial);
  check_launch(args.name);
  add_blocks(partial, row_blocks, N, args.sum.data, args.accumulate, stream);
}

HEADWAY_KERNEL(cuda, column_sum<float>);
HEADWAY_KERNEL(cuda, column_sum<bf16>);

}  // namespace
}  // namespace headway
