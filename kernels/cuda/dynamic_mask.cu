// A thread per key counts the better keys before it, then walks on until there are top_w of them: O(T^2)
// compares per head on scores in shared memory, four at a time, no sorting and no order between threads.
#include "kernels/ops/dynamic_mask.h"

#include <cmath>

#include "kernels/cuda/sum_rows.cuh"

namespace headway {
namespace {
using namespace cuda;

constexpr int kThreads = 256;

__device__ float softplus(float x) { return x > 0 ? x + log1pf(expf(-x)) : log1pf(expf(x)); }

template <class T>
__global__ void __launch_bounds__(kThreads) dynamic_mask_forward_kernel(DynamicMaskForward<T> a) {
  alignas(16) __shared__ float scores[kThreads];
  const int length = static_cast<int>(a.u.size[1]), K = static_cast<int>(a.u.size[2]);
  const int b = static_cast<int>(blockIdx.y) / K, k = static_cast<int>(blockIdx.y) % K;
  const int block_first = static_cast<int>(blockIdx.x) * kThreads, thread = static_cast<int>(threadIdx.x),
            own = block_first + thread;
  const float rate = a.rate.data[k];
  // What is no number is better than none, and none is better than it.
  const auto score = [&](int j) { return j < length ? rate * softplus(to_float(a.u(b, j, k))) : NAN; };
  const float mine = score(own);
  const int top_w = static_cast<int>(min(a.top_w, static_cast<int64_t>(kNeverDropped)));

  int better = 0, end = kNeverDropped;
  for (int first = 0; first < length; first += kThreads) {
    __syncthreads();
    scores[thread] = score(first + thread);
    __syncthreads();
    for (int n = 0; n < kThreads && end == kNeverDropped; n += 4) {
      const float4 four = *reinterpret_cast<const float4*>(scores + n);
      const float others[4] = {four.x, four.y, four.z, four.w};
      int next = better;
      if (first < block_first) {  // keys before every own one, whose positions keep no own one
#pragma unroll
        for (const float other : others) next += other > mine;
      } else {
#pragma unroll
        for (int i = 0; i < 4; ++i) {
          const int j = first + n + i;
          next += j > own ? others[i] >= mine : others[i] > mine;
          if (j >= own && next >= top_w && j < end) end = j;
        }
      }
      better = next;
    }
  }
  if (own >= length) return;
  const int64_t at = static_cast<int64_t>(blockIdx.y) * length + own;
  a.key_bias.data[at] = a.exponential ? expf(mine) : mine;
  a.key_end.data[at] = end;
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
  const int64_t length = args.u.size[1], K = args.u.size[2];
  /// Leaves du, and the rate's share.
  const auto term = [args, length, K] __device__(int64_t row, int64_t k, float(&drate)[1]) {
    const float rate = args.rate.data[k], u = to_float(args.u.data[row * K + k]), positive = softplus(u);
    const float da = args.dkey_bias.data[(row / length * K + k) * length + row % length] *
                     (args.exponential ? expf(rate * positive) : 1.0f);
    args.du.data[row * K + k] = from_float<T>(da * rate / (1 + expf(-u)));
    drate[0] = da * positive;
  };
  sum_rows(args.name, args.u.size[0] * length, K, term, args.drate.data, false, stream);
}

HEADWAY_KERNEL(cuda, dynamic_mask_forward<float>);
HEADWAY_KERNEL(cuda, dynamic_mask_forward<bf16>);
HEADWAY_KERNEL(cuda, dynamic_mask_backward<float>);
HEADWAY_KERNEL(cuda, dynamic_mask_backward<bf16>);

}  // namespace
}  // namespace headway
