#include "kernels/ops/rope.h"

#include "kernels/cuda/launch.cuh"

namespace headway {
namespace {
using namespace cuda;

// A thread turns the pairs (i, i + R/2) of V neighbouring i of one head, or copies V channels behind R.
template <class T, int V>
__global__ void rope_kernel(RopeRotate<T> a) {
  const int64_t H = a.x.size[2], Dh = a.x.size[3], half = a.table.size[1], T_ = a.x.size[1];
  const int64_t rest = Dh - 2 * half, per_head = (half + rest) / V;
  const int64_t index = static_cast<int64_t>(blockIdx.x) * blockDim.x + threadIdx.x;
  if (index >= a.x.size[0] * T_ * H * per_head) return;
  const int64_t head = index / per_head, i = index % per_head * V;
  const T* const x = a.x.data + head * Dh;
  T* const y = a.y.data + head * Dh;
  using P = Pack<T, V>;
  if (i >= half) {
    *reinterpret_cast<P*>(y + half + i) = *reinterpret_cast<const P*>(x + half + i);
    return;
  }
  const float* const angle = a.table.data + (head / H % T_ * half + i) * 2;
  const P low = *reinterpret_cast<const P*>(x + i), high = *reinterpret_cast<const P*>(x + half + i);
  P turned_low, turned_high;
#pragma unroll
  for (int v = 0; v < V; ++v) {
    const float cosine = angle[2 * v], sine = a.inverse ? -angle[2 * v + 1] : angle[2 * v + 1];
    const float u = to_float(low.values[v]), w = to_float(high.values[v]);
    turned_low.values[v] = from_float<T>(u * cosine - w * sine);
    turned_high.values[v] = from_float<T>(w * cosine + u * sine);
  }
  *reinterpret_cast<P*>(y + i) = turned_low;
  *reinterpret_cast<P*>(y + half + i) = turned_high;
}

template <class T>
void rope(const RopeRotate<T>& args, Stream& stream) {
  constexpr int V = 16 / sizeof(T), kThreads = 256;
  const int64_t half = args.table.size[1], rest = args.x.size[3] - 2 * half;
  const int64_t heads = args.x.size[0] * args.x.size[1] * args.x.size[2];
  if (heads == 0) return;
  const bool wide =
      half % V == 0 && rest % V == 0 && is_aligned(args.x.data, 16) && is_aligned(args.y.data, 16);
  const int64_t threads = heads * (half + rest) / (wide ? V : 1);
  if (wide)
    rope_kernel<T, V><<<blocks_for(threads, kThreads), kThreads, 0, stream.native()>>>(args);
  else
    rope_kernel<T, 1><<<blocks_for(threads, kThreads), kThreads, 0, stream.native()>>>(args);
  check_launch(args.name);
}

HEADWAY_KERNEL(cuda, rope<float>);
HEADWAY_KERNEL(cuda, rope<bf16>);

}  // namespace
}  // namespace headway
