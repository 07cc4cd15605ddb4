// A block per row; candidates meet in a fixed tree, equal ones keep the smaller column.
#include "kernels/ops/argmax.h"

#include "kernels/cuda/launch.cuh"

namespace headway {
namespace {
using namespace cuda;

constexpr int kThreads = 256;

__global__ void __launch_bounds__(kThreads) argmax_rows_kernel(ArgmaxRows<float> a) {
  __shared__ float values[kThreads];
  __shared__ int columns[kThreads];
  __shared__ int has_nan;
  const int64_t V = a.x.size[1];
  const float* const row = a.x.data + static_cast<int64_t>(blockIdx.x) * V;
  if (threadIdx.x == 0) has_nan = 0;
  __syncthreads();
  float best = -INFINITY;
  int column = static_cast<int>(V) - 1;
  bool nan = false;
  for (int64_t v = threadIdx.x; v < V; v += kThreads) {
    nan |= isnan(row[v]);
    if (row[v] > best || (row[v] == best && v < column)) best = row[v], column = static_cast<int>(v);
  }
  if (nan) has_nan = 1;
  values[threadIdx.x] = best;
  columns[threadIdx.x] = column;
  __syncthreads();
  for (int half = kThreads / 2; half > 0; half /= 2) {
    if (threadIdx.x < half) {
      const float other = values[threadIdx.x + half];
      const int at = columns[threadIdx.x + half];
      if (other > values[threadIdx.x] || (other == values[threadIdx.x] && at < columns[threadIdx.x]))
        values[threadIdx.x] = other, columns[threadIdx.x] = at;
    }
    __syncthreads();
  }
  if (threadIdx.x == 0) a.column.data[blockIdx.x] = has_nan ? -1 : columns[0];
}

void argmax_rows(const ArgmaxRows<float>& args, Stream& stream) {
  if (args.x.size[0] == 0) return;
  argmax_rows_kernel<<<static_cast<unsigned>(args.x.size[0]), kThreads, 0, stream.native()>>>(args);
  check_launch(args.name);
}

HEADWAY_KERNEL(cuda, argmax_rows);

}  // namespace
}  // namespace headway
