// A block per row of logits: one pass for the maximum and the sum of exponentials (rescaled as the maximum
// grows), and one more where the gradient is wanted, over a copy of the row in shared memory where it fits.
#include "kernels/ops/cross_entropy.h"

#include <cmath>

#include "kernels/cuda/launch.cuh"

namespace headway {
namespace {
using namespace cuda;

constexpr int kThreads = 512;

struct MaxSum {
  float max, sum;  // sum of exp(x - max)
};
__device__ MaxSum joined(MaxSum a, MaxSum b) {
  const float max = fmaxf(a.max, b.max);
  // Two empty parts have the maximum -inf, whose difference would be NaN.
  const float to_a = a.max == max ? 1.0f : __expf(a.max - max),
              to_b = b.max == max ? 1.0f : __expf(b.max - max);
  return {max, a.sum * to_a + b.sum * to_b};
}

template <class T, int V, bool kKeepsRow>
__global__ void __launch_bounds__(kThreads) cross_entropy_kernel(CrossEntropy<T> a) {
  extern __shared__ uint4 memory[];
  __shared__ MaxSum of_warp[kThreads / kWarp];
  const int64_t row = blockIdx.x, columns = a.logits.size[1];
  T* const logits = a.logits.data + row * columns;
  T* const kept = kKeepsRow ? reinterpret_cast<T*>(memory) : logits;
  const int target = a.targets.data[row];
  MaxSum part{-INFINITY, 0};
  for (int64_t i = threadIdx.x * V; i < columns; i += kThreads * V) {
    const auto pack = *reinterpret_cast<const Pack<T, V>*>(logits + i);
    if constexpr (kKeepsRow) *reinterpret_cast<Pack<T, V>*>(kept + i) = pack;  // read by this thread alone
    float largest = to_float(pack.values[0]);
#pragma unroll
    for (int v = 1; v < V; ++v) largest = fmaxf(largest, to_float(pack.values[v]));
    MaxSum here{largest, 0};
#pragma unroll
    for (int v = 0; v < V; ++v) here.sum += __expf(to_float(pack.values[v]) - largest);
    part = joined(part, here);
  }
#pragma unroll
  for (int offset = kWarp / 2; offset > 0; offset /= 2)
    part = joined(part, {__shfl_xor_sync(0xffffffffu, part.max, offset),
                         __shfl_xor_sync(0xffffffffu, part.sum, offset)});
  if (threadIdx.x % kWarp == 0) of_warp[threadIdx.x / kWarp] = part;
  __syncthreads();
  part = of_warp[0];
#pragma unroll
  for (int w = 1; w < kThreads / kWarp; ++w) part = joined(part, of_warp[w]);

  if (threadIdx.x == 0)
    a.losses.data[row] = target < 0 ? 0.0f : part.max + logf(part.sum) - to_float(logits[target]);
  if (!a.write_gradient) return;
  __syncthreads();  // the target's logit has been read
  const float scale = target < 0 ? 0.0f : static_cast<float>(a.scale), factor = scale / part.sum;
  for (int64_t i = threadIdx.x * V; i < columns; i += kThreads * V) {
    auto pack = *reinterpret_cast<const Pack<T, V>*>(kept + i);
#pragma unroll
    for (int v = 0; v < V; ++v) {
      const float p = factor * __expf(to_float(pack.values[v]) - part.max);
      pack.values[v] = from_float<T>(i + v == target ? p - scale : p);
    }
    *reinterpret_cast<Pack<T, V>*>(logits + i) = pack;
  }
}

template <class T>
void cross_entropy(const CrossEntropy<T>& args, Stream& stream) {
  if (args.logits.size[0] == 0) return;
  constexpr int V = 16 / sizeof(T);
  constexpr size_t kLargestRow = 112 << 10;  // two blocks fit a multiprocessor
  const auto blocks = static_cast<unsigned>(args.logits.size[0]);
  const size_t row_bytes = static_cast<size_t>(args.logits.size[1]) * sizeof(T);
  const bool wide = args.logits.size[1] % V == 0 && is_aligned(args.logits.data, 16);
  const bool keeps = wide && args.write_gradient && row_bytes <= kLargestRow;
  const auto kernel = keeps  ? cross_entropy_kernel<T, V, true>
                      : wide ? cross_entropy_kernel<T, V, false>
                             : cross_entropy_kernel<T, 1, false>;
  if (keeps)
    check_cuda(cudaFuncSetAttribute(kernel, cudaFuncAttributeMaxDynamicSharedMemorySize,
                                    static_cast<int>(kLargestRow)),
               args.name);
  kernel<<<blocks, kThreads, keeps ? row_bytes : 0, stream.native()>>>(args);
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
