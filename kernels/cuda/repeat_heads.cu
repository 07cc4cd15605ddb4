#include "kernels/ops/repeat_heads.h"

#include "kernels/cuda/launch.cuh"

namespace headway {
namespace {
using namespace cuda;

constexpr int kThreads = 256;

/// A thread per element of y, whose rows of G heads stand where x has one.
template <class T>
__global__ void repeat_heads_forward_kernel(RepeatHeadsForward<T> a) {
  const int64_t Dh = a.x.size[3], group = a.y.size[2] / a.x.size[2];
  const int64_t i = static_cast<int64_t>(blockIdx.x) * blockDim.x + threadIdx.x;
  if (i < a.y.numel()) a.y.data[i] = a.x.data[i / (group * Dh) * Dh + i % Dh];
}

/// A thread per element of dx adds up its heads in their order.
template <class T>
__global__ void repeat_heads_backward_kernel(RepeatHeadsBackward<T> a) {
  const int64_t Dh = a.dx.size[3], group = a.dy.size[2] / a.dx.size[2];
  const int64_t i = static_cast<int64_t>(blockIdx.x) * blockDim.x + threadIdx.x;
  if (i >= a.dx.numel()) return;
  float sum = 0;
  for (int64_t g = 0; g < group; ++g) sum += to_float(a.dy.data[(i / Dh * group + g) * Dh + i % Dh]);
  a.dx.data[i] = from_float<T>(sum);
}

template <class T>
void repeat_heads_forward(const RepeatHeadsForward<T>& args, Stream& stream) {
  if (args.y.numel() == 0) return;
  repeat_heads_forward_kernel<<<blocks_for(args.y.numel(), kThreads), kThreads, 0, stream.native()>>>(args);
  check_launch(args.name);
}

template <class T>
void repeat_heads_backward(const RepeatHeadsBackward<T>& args, Stream& stream) {
  if (args.dx.numel() == 0) return;
  repeat_heads_backward_kernel<<<blocks_for(args.dx.numel(), kThreads), kThreads, 0, stream.native()>>>(args);
  check_launch(args.name);
}

HEADWAY_KERNEL(cuda, repeat_heads_forward<float>);
HEADWAY_KERNEL(cuda, repeat_heads_forward<bf16>);
HEADWAY_KERNEL(cuda, repeat_heads_backward<float>);
HEADWAY_KERNEL(cuda, repeat_heads_backward<bf16>);

}  // namespace
}  // namespace headway
