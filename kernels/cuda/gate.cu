// A thread per gated element. Scores that serve several elements get their gradient from a warp each, those
// that serve every row from a block, in a fixed order.
#include "kernels/ops/gate.h"

#include "kernels/cuda/map.cuh"

namespace headway {
namespace {
using namespace cuda;

constexpr int kThreads = 256;

/// Which score serves which element of [R,H,D].
struct ScoreIndex {
  int64_t H, D;
  int64_t row_step, head_step, channel_step;  // 0 along dimensions where the scores have one element

  template <class X, class Z>
  ScoreIndex(const View<X, 3>& x, const View<Z, 3>& z)
      : H(x.size[1]),
        D(x.size[2]),
        row_step(z.size[0] == 1 ? 0 : z.size[1] * z.size[2]),
        head_step(z.size[1] == 1 ? 0 : z.size[2]),
        channel_step(z.size[2] == 1 ? 0 : 1) {}
  __device__ int64_t operator()(int64_t i) const {
    return i / (H * D) * row_step + i / D % H * head_step + i % D * channel_step;
  }
};

template <class T>
__global__ void gate_forward_kernel(GateForward<T> a, ScoreIndex score_of) {
  const int64_t i = static_cast<int64_t>(blockIdx.x) * blockDim.x + threadIdx.x;
  if (i >= a.x.numel()) return;
  const float x = to_float(a.x.data[i]), g = activate(a.activation, to_float(a.z.data[score_of(i)]));
  a.y.data[i] = from_float<T>(a.adds ? x + g : x * g);
}

/// One element's part of the gradient of its score.
template <class T>
__device__ float score_gradient(const GateBackward<T>& a, int64_t i, float z) {
  const float dy = to_float(a.dy.data[i]) * activation_slope(a.activation, z);
  return a.adds ? dy : dy * to_float(a.x.data[i]);
}

template <class T>
__global__ void gate_backward_kernel(GateBackward<T> a, ScoreIndex score_of, bool one_each) {
  const int64_t i = static_cast<int64_t>(blockIdx.x) * blockDim.x + threadIdx.x;
  if (i >= a.x.numel()) return;
  const float z = to_float(a.z.data[score_of(i)]), dy = to_float(a.dy.data[i]);
  a.dx.data[i] = from_float<T>(a.adds ? dy : dy * activate(a.activation, z));
  if (one_each) a.dz.data[i] = from_float<T>(score_gradient(a, i, z));
}

/// The elements of one row that a score serves: those of `heads` heads and `channels` channels.
struct Served {
  int64_t heads, channels, first;  // first: of the row's elements
  template <class T>
  __device__ Served(const GateBackward<T>& a, int64_t score) {
    const int64_t zh = a.z.size[1], zd = a.z.size[2], D = a.x.size[2];
    heads = zh == 1 ? a.x.size[1] : 1;
    channels = zd == 1 ? D : 1;
    first = (zh == 1 ? 0 : score / zd % zh * D) + (zd == 1 ? 0 : score % zd);
  }
  __device__ int64_t count() const { return heads * channels; }
  __device__ int64_t element(int64_t n, int64_t D) const { return first + n / channels * D + n % channels; }
};

template <class T>
__global__ void score_gradient_by_warp(GateBackward<T> a) {
  const int64_t score = static_cast<int64_t>(blockIdx.x) * (kThreads / kWarp) + threadIdx.x / kWarp;
  const int lane = threadIdx.x % kWarp;
  if (score >= a.z.numel()) return;
  const int64_t per_row = a.z.size[1] * a.z.size[2], D = a.x.size[2], row = score / per_row;
  const Served served(a, score % per_row);
  const float z = to_float(a.z.data[score]);
  float sum = 0;
  for (int64_t n = lane; n < served.count(); n += kWarp)
    sum += score_gradient(a, row * a.x.size[1] * D + served.element(n, D), z);
  sum = warp_sum(sum);
  if (lane == 0) a.dz.data[score] = from_float<T>(sum);
}

template <class T>
__global__ void __launch_bounds__(kThreads) score_gradient_by_block(GateBackward<T> a) {
  const int64_t D = a.x.size[2], score = blockIdx.x;
  const Served served(a, score);
  const float z = to_float(a.z.data[score]);
  float sum = 0;
  for (int64_t n = threadIdx.x; n < a.x.size[0] * served.count(); n += kThreads)
    sum += score_gradient(a, n / served.count() * a.x.size[1] * D + served.element(n % served.count(), D), z);
  sum = block_sum(sum);
  if (threadIdx.x == 0) a.dz.data[score] = from_float<T>(sum);
}

template <class T>
void gate_forward(const GateForward<T>& args, Stream& stream) {
  if (args.x.numel() == 0) return;
  gate_forward_kernel<<<blocks_for(args.x.numel(), kThreads), kThreads, 0, stream.native()>>>(
      args, ScoreIndex(args.x, args.z));
  check_launch(args.name);
}

template <class T>
void gate_backward(const GateBackward<T>& args, Stream& stream) {
  if (args.x.numel() == 0) return;
  const bool one_each = args.z.numel() == args.x.numel();
  gate_backward_kernel<<<blocks_for(args.x.numel(), kThreads), kThreads, 0, stream.native()>>>(
      args, ScoreIndex(args.x, args.z), one_each);
  check_launch(args.name);
  if (one_each) return;
  if (args.z.size[0] == args.x.size[0])
    score_gradient_by_warp<<<blocks_for(args.z.numel(), kThreads / kWarp), kThreads, 0, stream.native()>>>(
        args);
  else
    score_gradient_by_block<<<static_cast<unsigned>(args.z.numel()), kThreads, 0, stream.native()>>>(args);
  check_launch(args.name);
}

template <class T>
void activate_forward(const ActivateForward<T>& args, Stream& stream) {
  const GateActivation kind = args.activation;
  map(
      args.x.size[0], stream, args.name,
      [kind] __device__(int64_t, float x, float& y) { y = activate(kind, x); }, in(args.x.data),
      out(args.y.data));
}

template <class T>
void activate_backward(const ActivateBackward<T>& args, Stream& stream) {
  const GateActivation kind = args.activation;
  map(
      args.x.size[0], stream, args.name,
      [kind] __device__(int64_t, float dy, float x, float& dx) { dx = dy * activation_slope(kind, x); },
      in(args.dy.data), in(args.x.data), out(args.dx.data));
}

template <class T>
__global__ void head_mean_forward_kernel(HeadMeanForward<T> a) {
  const int64_t i = static_cast<int64_t>(blockIdx.x) * blockDim.x + threadIdx.x;
  const int64_t H = a.x.size[1], D = a.x.size[2];
  if (i >= a.y.numel()) return;
  float sum = 0;
  for (int64_t h = 0; h < H; ++h) sum += to_float(a.x.data[(i / D * H + h) * D + i % D]);
  a.y.data[i] = from_float<T>(sum / static_cast<float>(H));
}

template <class T>
__global__ void head_mean_backward_kernel(HeadMeanBackward<T> a) {
  const int64_t i = static_cast<int64_t>(blockIdx.x) * blockDim.x + threadIdx.x;
  const int64_t H = a.dx.size[1], D = a.dx.size[2];
  if (i >= a.dx.numel()) return;
  a.dx.data[i] = from_float<T>(to_float(a.dy.data[i / (H * D) * D + i % D]) / static_cast<float>(H));
}

template <class T>
void head_mean_forward(const HeadMeanForward<T>& args, Stream& stream) {
  if (args.y.numel() == 0) return;
  head_mean_forward_kernel<<<blocks_for(args.y.numel(), kThreads), kThreads, 0, stream.native()>>>(args);
  check_launch(args.name);
}

template <class T>
void head_mean_backward(const HeadMeanBackward<T>& args, Stream& stream) {
  if (args.dx.numel() == 0) return;
  head_mean_backward_kernel<<<blocks_for(args.dx.numel(), kThreads), kThreads, 0, stream.native()>>>(args);
  check_launch(args.name);
}

HEADWAY_KERNEL(cuda, gate_forward<float>);
HEADWAY_KERNEL(cuda, gate_forward<bf16>);
HEADWAY_KERNEL(cuda, gate_backward<float>);
HEADWAY_KERNEL(cuda, gate_backward<bf16>);
HEADWAY_KERNEL(cuda, activate_forward<float>);
HEADWAY_KERNEL(cuda, activate_forward<bf16>);
HEADWAY_KERNEL(cuda, activate_backward<float>);
HEADWAY_KERNEL(cuda, activate_backward<bf16>);
HEADWAY_KERNEL(cuda, head_mean_forward<float>);
HEADWAY_KERNEL(cuda, head_mean_forward<bf16>);
HEADWAY_KERNEL(cuda, head_mean_backward<float>);
HEADWAY_KERNEL(cuda, head_mean_backward<bf16>);

}  // namespace
}  // namespace headway
