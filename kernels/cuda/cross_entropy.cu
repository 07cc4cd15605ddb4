// A block takes rows of logits in turn: one pass for the maximum and the sum of exponentials, rescaled as the
// maximum grows, and one more where the gradient is wanted. A row is copied to shared memory while the row
// before is worked on where two fit (113 KiB each on Hopper), so memory is read once and is never waited for
// by all threads at a time.
#include "kernels/ops/cross_entropy.h"

#include <cfloat>

#include "kernels/cuda/base_2.cuh"
#include "kernels/cuda/mma.cuh"
#include "kernels/cuda/rows.cuh"

namespace headway {
namespace {
using namespace cuda;

constexpr int kMostThreads = 1024;

constexpr float kLn2 = 0.693147181f;

/// Of y = x log2(e).
struct MaxSum {
  float max, sum;  // sum of 2^(y - max)
};
/// Of all lanes of a warp, in every lane.
__device__ MaxSum of_lanes(MaxSum part) {
  const float max = warp_max(part.max);
  return {max, warp_sum(part.sum * power_of_2(part.max - max))};
}

template <class T, int V, bool kCopiesRows>
__global__ void __launch_bounds__(kMostThreads) cross_entropy_kernel(CrossEntropy<T> a) {
  extern __shared__ uint4 memory[];  // two rows
  __shared__ MaxSum of_warp[2][kWarp];
  const int64_t rows = a.logits.size[0], columns = a.logits.size[1];
  const int64_t first = threadIdx.x * V, step = blockDim.x * V;
  const int lane = threadIdx.x % kWarp, warp = threadIdx.x / kWarp;
  // A thread copies what it alone will read, so it waits for its own copies and for nobody.
  const auto start_copy = [&](int64_t row, int turn) {
    if constexpr (kCopiesRows) {
      T* const to = reinterpret_cast<T*>(memory) + turn * columns;
      if (row < rows)
        for (int64_t i = first; i < columns; i += step)
          copy_async(shared_address(to + i), a.logits.data + row * columns + i, true);
      commit_copies();
    }
  };
  int turn = 0;
  start_copy(blockIdx.x, turn);
  for (int64_t row = blockIdx.x; row < rows; row += gridDim.x, turn ^= 1) {
    start_copy(row + gridDim.x, turn ^ 1);
    wait_for_copies<1>();
    T* const logits = a.logits.data + row * columns;
    const T* const x = kCopiesRows ? reinterpret_cast<const T*>(memory) + turn * columns : logits;
    const int target = a.targets.data[row];
    MaxSum part{-FLT_MAX, 0};  // -inf less -inf would be NaN
#pragma unroll 1
    for (int64_t i = first; i < columns; i += step) {
      float values[V];
      load(x + i, values);
      float largest = values[0];
#pragma unroll
      for (int v = 1; v < V; ++v) largest = fmaxf(largest, values[v]);
      largest *= kLog2E;
      if (largest > part.max) part = {largest, part.sum * power_of_2(part.max - largest)};
#pragma unroll
      for (int v = 0; v < V; ++v) part.sum += power_of_2(values[v] * kLog2E - part.max);
    }
    part = of_lanes(part);
    if (lane == 0) of_warp[turn][warp] = part;
    __syncthreads();  // once a row: who is here has read the other turn's parts
    part = of_lanes(lane < blockDim.x / kWarp ? of_warp[turn][lane] : MaxSum{-FLT_MAX, 0});

    // The target's logit and its gradient belong to the thread that has its columns.
    const bool has_target = threadIdx.x == (target < 0 ? 0 : target / V % blockDim.x);
    const float at_target = has_target && target >= 0 ? to_float(x[target]) : 0.0f;
    if (has_target) a.losses.data[row] = target < 0 ? 0.0f : part.max * kLn2 + (logf(part.sum) - at_target);
    if (!a.write_gradient) continue;
    const float scale = target < 0 ? 0.0f : static_cast<float>(a.scale), factor = scale / part.sum;
#pragma unroll 1
    for (int64_t i = first; i < columns; i += step) {
      float values[V];
      load(x + i, values);
#pragma unroll
      for (int v = 0; v < V; ++v) values[v] = factor * power_of_2(values[v] * kLog2E - part.max);
      store(logits + i, values);
    }
    if (has_target && target >= 0)
      logits[target] = from_float<T>(factor * power_of_2(at_target * kLog2E - part.max) - scale);
  }
}

template <class T>
void cross_entropy(const CrossEntropy<T>& args, Stream& stream) {
  const int64_t rows = args.logits.size[0], columns = args.logits.size[1];
  if (rows == 0) return;
  constexpr int V = 16 / sizeof(T), kPacksPerThread = 4;
  constexpr size_t kStaticBytes = 1 << 10, kBlockBytes = 2 << 10;  // what a block takes besides its rows
  const size_t shared_bytes = property(stream, cudaDevAttrMaxSharedMemoryPerBlockOptin) - kStaticBytes;
  const size_t two_rows = 2 * static_cast<size_t>(columns) * sizeof(T);
  const bool wide = columns % V == 0 && is_aligned(args.logits.data, 16);
  const bool copies = wide && two_rows <= shared_bytes;
  const unsigned threads =
      std::clamp(blocks_for(columns, kPacksPerThread * V * kWarp) * kWarp, 128u, unsigned{kMostThreads});
  const auto kernel = copies ? cross_entropy_kernel<T, V, true>
                      : wide ? cross_entropy_kernel<T, V, false>
                             : cross_entropy_kernel<T, 1, false>;
  unsigned per_multiprocessor = property(stream, cudaDevAttrMaxThreadsPerMultiProcessor) / threads;
  if (copies) {
    per_multiprocessor = std::min(
        per_multiprocessor, static_cast<unsigned>(1 + (shared_bytes - two_rows) / (two_rows + kBlockBytes)));
    check_cuda(cudaFuncSetAttribute(kernel, cudaFuncAttributeMaxDynamicSharedMemorySize,
                                    static_cast<int>(shared_bytes)),
               args.name);
  }
  const auto blocks = static_cast<unsigned>(
      std::min<int64_t>(rows, int64_t{num_multiprocessors(stream)} * per_multiprocessor));
  kernel<<<blocks, threads, copies ? two_rows : 0, stream.native()>>>(args);
  check_launch(args.name);
}

__global__ void sum_rows_kernel(SumRows<float> a) {
  double sum = 0;
  for (int64_t i = threadIdx.x; i < a.values.size[0]; i += blockDim.x) sum += a.values.data[i];
  sum = block_sum(sum);
  if (threadIdx.x == 0)
    a.sum.data[0] =
        static_cast<float>(a.scale * sum + (a.accumulate ? static_cast<double>(a.sum.data[0]) : 0.0));
}

void sum_rows(const SumRows<float>& args, Stream& stream) {
  sum_rows_kernel<<<1, 1024, 0, stream.native()>>>(args);
  check_launch(args.name);
}

HEADWAY_KERNEL(cuda, cross_entropy<float>);
HEADWAY_KERNEL(cuda, cross_entropy<bf16>);
HEADWAY_KERNEL(cuda, sum_rows);

}  // namespace
}  // namespace headway
