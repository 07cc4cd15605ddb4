#include "kernels/ops/merge_attention.h"

#include <cmath>

#include "kernels/cuda/launch.cuh"

namespace headway {
namespace {
using namespace cuda;

// A warp per (batch, token, head). Both sums are read before the merged one is written over either.
template <class T>
__global__ void merge_kernel(MergeAttention<T> a) {
  const int64_t T_ = a.o.size[1], H = a.o.size[2], Dh = a.o.size[3];
  const int64_t index = (static_cast<int64_t>(blockIdx.x) * blockDim.x + threadIdx.x) / kWarp;
  const int lane = threadIdx.x % kWarp;
  if (index >= a.o.size[0] * T_ * H) return;
  const int64_t row = (index / (T_ * H) * H + index % H) * T_ + index / H % T_;
  const float first = a.log_sum_exp1.data[row], second = a.log_sum_exp2.data[row];
  const float largest = fmaxf(first, second);
  const float sum =
      largest == -INFINITY ? largest : largest + logf(expf(first - largest) + expf(second - largest));
  const float weight1 = sum == -INFINITY ? 0.0f : expf(first - sum),
              weight2 = sum == -INFINITY ? 0.0f : expf(second - sum);
  for (int64_t d = lane; d < Dh; d += kWarp) {
    const int64_t i = index * Dh + d;
    a.o.data[i] = from_float<T>(weight1 * to_float(a.o1.data[i]) + weight2 * to_float(a.o2.data[i]));
  }
  __syncwarp();
  if (lane == 0) a.log_sum_exp.data[row] = sum;
}

template <class T>
void merge(const MergeAttention<T>& args, Stream& stream) {
  const int64_t rows = args.o.size[0] * args.o.size[1] * args.o.size[2];
  if (rows == 0) return;
  merge_kernel<<<blocks_for(rows * kWarp, 256), 256, 0, stream.native()>>>(args);
  check_launch(args.name);
}

HEADWAY_KERNEL(cuda, merge<float>);
HEADWAY_KERNEL(cuda, merge<bf16>);

}  // namespace
}  // namespace headway
