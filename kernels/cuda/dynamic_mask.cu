// A thread per key counts the better keys before it, then walks on until there are top_w of them: O(T^2)
// compares per head on scores in shared memory, no sorting and no order between threads.
#include "kernels/ops/dynamic_mask.h"

#include "kernels/cuda/launch.cuh"

namespace headway {
namespace {
using namespace cuda;

constexpr int kThreads = 256;

__device__ float softplus(float x) { return x > 0 ? x + log1pf(expf(-x)) : log1pf(expf(x)); }

template <class T>
__global__ void __launch_bounds__(kThreads) dynamic_mask_forward_kernel(DynamicMaskForward<T> a) {
  __shared__ float scores[kThreads];
  const int64_t length = a.u.size[1], K = a.u.size[2], b = blockIdx.y / K, k = blockIdx.y % K;
  const int64_t own = static_cast<int64_t>(blockIdx.x) * kThreads + threadIdx.x;
  const auto score = [&](int64_t j) { return a.rate.data[k] * softplus(to_float(a.u(b, j, k))); };
  const float mine = own < length ? score(own) : 0;

  int64_t better = 0, end = kNeverDropped;
  for (int64_t first = 0; first < length; first += kThreads) {
    __syncthreads();
    if (first + threadIdx.x < length) scores[threadIdx.x] = score(first + threadIdx.x);
    __syncthreads();
    if (own >= length || end != kNeverDropped) continue;
    const int count = static_cast<int>(length - first < kThreads ? length - first : kThreads);
    for (int n = 0; n < count; ++n) {
      const int64_t j = first + n;
      better += j != own && (scores[n] > mine || (scores[n] == mine && j > own));
      if (j >= own && better >= a.top_w) {
        end = j;
        break;
      }
    }
  }
  if (own >= length) return;
  const int64_t at = (b * K + k) * length + own;
  a.key_bias.data[at] = a.exponential ? expf(mine) : mine;
  a.key_end.data[at] = static_cast<int32_t>(end);
}

template <class T>
__global__ void __launch_bounds__(kThreads) dynamic_mask_backward_kernel(DynamicMaskBackward<T> a) {
  const int64_t B = a.u.size[0], length = a.u.size[1], K = a.u.size[2], k = blockIdx.x;
  const float rate = a.rate.data[k];
  float drate = 0;
  for (int64_t n = threadIdx.x; n < B * length; n += kThreads) {
    const int64_t b = n / length, j = n % length;
    const float u = to_float(a.u(b, j, k)), positive = softplus(u);
    const float da =
        a.dkey_bias.data[(b * K + k) * length + j] * (a.exponential ? expf(rate * positive) : 1.0f);
    a.du.data[(b * length + j) * K + k] = from_float<T>(da * rate / (1 + expf(-u)));
    drate += da * positive;
  }
  drate = block_sum(drate);
  if (threadIdx.x == 0) a.drate.data[k] = drate;
}

template <class T>
void dynamic_mask_forward(const DynamicMaskForward<T>& args, Stream& stream) {
  if (args.u.numel() == 0) return;
  const dim3 grid(blocks_for(args.u.size[1], kThreads),
                  static_cast<unsigned>(args.u.size[0] * args.u.size[2]));
  dynamic_mask_forward_kernel<<<grid, kThreads, 0, stream.native()>>>(args);
  check_launch(args.name);
}

template <class T>
void dynamic_mask_backward(const DynamicMaskBackward<T>& args, Stream& stream) {
  dynamic_mask_backward_kernel<<<static_cast<unsigned>(args.u.size[2]), kThreads, 0, stream.native()>>>(args);
  check_launch(args.name);
}

HEADWAY_KERNEL(cuda, dynamic_mask_forward<float>);
HEADWAY_KERNEL(cuda, dynamic_mask_forward<bf16>);
HEADWAY_KERNEL(cuda, dynamic_mask_backward<float>);
HEADWAY_KERNEL(cuda, dynamic_mask_backward<bf16>);

}  // namespace
}  // namespace headway
