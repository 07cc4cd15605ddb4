// A thread per (sequence, head, token); the sums of alpha by a block per head, in a fixed order.
#include "kernels/ops/affine_scale.h"

#include "kernels/cuda/launch.cuh"

namespace headway {
namespace {
using namespace cuda;

constexpr int kThreads = 256;

/// Element i of [B,H,T] as an element of [B,T,H], and its token.
struct Place {
  int64_t z, token;
  int head;
  __device__ Place(int64_t i, int64_t length, int64_t H) {
    token = i % length;
    head = static_cast<int>(i / length % H);
    z = (i / (length * H) * length + token) * H + head;
  }
};

template <class T>
__global__ void affine_scale_forward_kernel(AffineScaleForward<T> a) {
  const int64_t i = static_cast<int64_t>(blockIdx.x) * blockDim.x + threadIdx.x;
  const int64_t length = a.z.size[1];
  if (i >= a.z.numel()) return;
  const Place at(i, length, a.z.size[2]);
  const float alpha = affine_activate(a.config.activation, to_float(a.z.data[at.z]));
  a.row_scale.data[i] = alpha;
  if (a.row_bias)
    a.row_bias.data[i] =
        (a.mean.data[at.head] - alpha) / static_cast<float>(a.config.count_at(at.token, length));
}

template <class T>
__global__ void __launch_bounds__(kThreads) alpha_sums_kernel(AffineScaleForward<T> a) {
  const int64_t length = a.z.size[1], H = a.z.size[2], head = blockIdx.x;
  float sum = 0;
  for (int64_t n = threadIdx.x; n < a.z.size[0] * length; n += kThreads)
    sum += a.row_scale.data[(n / length * H + head) * length + n % length];
  sum = block_sum(sum);
  if (threadIdx.x == 0) a.alpha_sums.data[head] += sum;
}

template <class T>
__global__ void affine_scale_backward_kernel(AffineScaleBackward<T> a) {
  const int64_t i = static_cast<int64_t>(blockIdx.x) * blockDim.x + threadIdx.x;
  const int64_t length = a.z.size[1];
  if (i >= a.z.numel()) return;
  const Place at(i, length, a.z.size[2]);
  float dalpha = a.drow_scale.data[i];
  if (a.drow_bias) dalpha -= a.drow_bias.data[i] / static_cast<float>(a.config.count_at(at.token, length));
  a.dz.data[at.z] = from_float<T>(dalpha * affine_slope(a.config.activation, to_float(a.z.data[at.z])));
}

template <class T>
void affine_scale_forward(const AffineScaleForward<T>& args, Stream& stream) {
  if (args.z.numel() == 0) return;
  affine_scale_forward_kernel<<<blocks_for(args.z.numel(), kThreads), kThreads, 0, stream.native()>>>(args);
  check_launch(args.name);
  if (!args.alpha_sums) return;
  alpha_sums_kernel<<<static_cast<unsigned>(args.z.size[2]), kThreads, 0, stream.native()>>>(args);
  check_launch(args.name);
}

template <class T>
void affine_scale_backward(const AffineScaleBackward<T>& args, Stream& stream) {
  if (args.z.numel() == 0) return;
  affine_scale_backward_kernel<<<blocks_for(args.z.numel(), kThreads), kThreads, 0, stream.native()>>>(args);
  check_launch(args.name);
}

__global__ void running_mean_kernel(UpdateRunningMean<float> a) {
  const int64_t i = static_cast<int64_t>(blockIdx.x) * blockDim.x + threadIdx.x;
  if (i >= a.mean.size[0]) return;
  const auto rho = static_cast<float>(a.rho);
  const auto share = static_cast<float>((1 - a.rho) / static_cast<double>(a.count));
  if (!a.grad_scale || a.grad_scale(0) >= 0) a.mean(i) = rho * a.mean(i) + share * a.sums(i);
  a.sums(i) = 0;
}

void update_running_mean(const UpdateRunningMean<float>& args, Stream& stream) {
  if (args.mean.size[0] == 0) return;
  running_mean_kernel<<<blocks_for(args.mean.size[0], kThreads), kThreads, 0, stream.native()>>>(args);
  check_launch(args.name);
}

HEADWAY_KERNEL(cuda, update_running_mean);
HEADWAY_KERNEL(cuda, affine_scale_forward<float>);
HEADWAY_KERNEL(cuda, affine_scale_forward<bf16>);
HEADWAY_KERNEL(cuda, affine_scale_backward<float>);
HEADWAY_KERNEL(cuda, affine_scale_backward<bf16>);

}  // namespace
}  // namespace headway
