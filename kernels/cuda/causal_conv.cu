// A thread per token and channel. Backward first turns dy into the gradient of z where SiLU follows, once for
// all taps; the weight's gradient is summed over blocks of rows, then over blocks.
#include "kernels/ops/causal_conv.h"

#include "kernels/cuda/add_blocks.h"
#include "kernels/cuda/launch.cuh"

namespace headway {
namespace {
using namespace cuda;

constexpr int kThreads = 256;

__device__ float sigmoid(float x) { return 1 / (1 + expf(-x)); }

/// x[t,c] of sequence b; t may lie in the history, or before it.
template <class T>
__device__ float value_at(const CausalConvInputs<T>& in, int64_t b, int64_t t, int64_t c) {
  const int64_t C = in.x.size[2], before = in.weight.size[1] - 1;
  if (t >= 0) return to_float(in.x.data[(b * in.x.size[1] + t) * C + c]);
  return in.history && t >= -before ? to_float(in.history.data[(b * before + before + t) * C + c]) : 0.0f;
}

/// z[t,c]
template <class T>
__device__ float convolved(const CausalConvInputs<T>& in, int64_t b, int64_t t, int64_t c) {
  const int64_t K = in.weight.size[1];
  float sum = 0;
  for (int64_t j = 0; j < K; ++j)
    sum += to_float(in.weight.data[c * K + j]) * value_at(in, b, t - (K - 1) + j, c);
  return sum;
}

template <class T>
__global__ void conv_forward_kernel(CausalConvForward<T> a) {
  const int64_t C = a.in.x.size[2], length = a.in.x.size[1];
  const int64_t index = static_cast<int64_t>(blockIdx.x) * blockDim.x + threadIdx.x;
  if (index >= a.in.x.numel()) return;
  const int64_t row = index / C;
  const float z = convolved(a.in, row / length, row % length, index % C);
  a.y.data[index] = from_float<T>(a.in.silu ? z * sigmoid(z) : z);
}

/// dz [B,T,C] = dy silu'(z)
template <class T>
__global__ void silu_gradient_kernel(CausalConvBackward<T> a, float* dz) {
  const int64_t C = a.in.x.size[2], length = a.in.x.size[1];
  const int64_t index = static_cast<int64_t>(blockIdx.x) * blockDim.x + threadIdx.x;
  if (index >= a.in.x.numel()) return;
  const int64_t row = index / C;
  const float z = convolved(a.in, row / length, row % length, index % C), s = sigmoid(z);
  dz[index] = to_float(a.dy.data[index]) * s * (1 + z * (1 - s));
}

/// dx, and dhistory where it is wanted; Z is T, or float where SiLU follows.
template <class T, class Z>
__global__ void rows_gradient_kernel(CausalConvBackward<T> a, const Z* dz) {
  const int64_t C = a.in.x.size[2], length = a.in.x.size[1], K = a.in.weight.size[1];
  const int64_t before = a.dhistory ? K - 1 : 0, rows = before + length;
  const int64_t index = static_cast<int64_t>(blockIdx.x) * blockDim.x + threadIdx.x;
  if (index >= a.in.x.size[0] * rows * C) return;
  const int64_t c = index % C, b = index / C / rows, t = index / C % rows - before;
  float sum = 0;
  for (int64_t j = 0; j < K; ++j)
    if (const int64_t reader = t + K - 1 - j; reader >= 0 && reader < length)
      sum += to_float(a.in.weight.data[c * K + j]) * to_float(dz[(b * length + reader) * C + c]);
  T& to = t >= 0 ? a.dx.data[(b * length + t) * C + c] : a.dhistory.data[(b * before + before + t) * C + c];
  to = from_float<T>(sum);
}

constexpr int kColumns = 32, kRows = 8;  // of a block of threads
constexpr int64_t kRowsPerBlock = 256;

/// partial [blocks,C,K]
template <class T, class Z>
__global__ void weight_gradient_kernel(CausalConvInputs<T> in, const Z* dz, float* partial) {
  __shared__ float sums[kRows][kColumns];
  const int64_t C = in.x.size[2], length = in.x.size[1], K = in.weight.size[1], N = in.x.size[0] * length;
  const int64_t c = static_cast<int64_t>(blockIdx.x) * kColumns + threadIdx.x;
  const int64_t first = static_cast<int64_t>(blockIdx.y) * kRowsPerBlock;
  const int64_t last = min(first + kRowsPerBlock, N);
  for (int64_t j = 0; j < K; ++j) {
    float sum = 0;
    for (int64_t n = first + threadIdx.y; n < last && c < C; n += kRows)
      sum += to_float(dz[n * C + c]) * value_at(in, n / length, n % length - (K - 1) + j, c);
    __syncthreads();  // the sums of the tap before have been read
    sums[threadIdx.y][threadIdx.x] = sum;
    __syncthreads();
    if (threadIdx.y != 0 || c >= C) continue;
#pragma unroll
    for (int r = 1; r < kRows; ++r) sum += sums[r][threadIdx.x];
    partial[(blockIdx.y * C + c) * K + j] = sum;
  }
}

template <class T>
void conv_forward(const CausalConvForward<T>& args, Stream& stream) {
  const int64_t n = args.in.x.numel();
  if (n == 0) return;
  conv_forward_kernel<<<blocks_for(n, kThreads), kThreads, 0, stream.native()>>>(args);
  check_launch(args.name);
}

template <class T, class Z>
void gradients(const CausalConvBackward<T>& args, const Z* dz, unsigned blocks, float* partial,
               Stream& stream) {
  const int64_t B = args.in.x.size[0], C = args.in.x.size[2], K = args.in.weight.size[1];
  const int64_t rows = args.in.x.size[1] + (args.dhistory ? K - 1 : 0);
  if (B * rows * C > 0)
    rows_gradient_kernel<<<blocks_for(B * rows * C, kThreads), kThreads, 0, stream.native()>>>(args, dz);
  weight_gradient_kernel<<<dim3(blocks_for(C, kColumns), blocks), dim3(kColumns, kRows), 0,
                           stream.native()>>>(args.in, dz, partial);
  check_launch(args.name);
  add_blocks(partial, blocks, C * K, args.dweight.data, args.accumulate_weight, stream);
}

template <class T>
void conv_backward(const CausalConvBackward<T>& args, Stream& stream) {
  const int64_t n = args.in.x.numel(), C = args.in.x.size[2];
  if (C == 0) return;
  const unsigned blocks = std::max(1u, blocks_for(n / C, kRowsPerBlock));
  HEADWAY_CHECK(
      blocks <= 65535, ShapeError,
      "causal_conv_backward: " + std::to_string(n / C) + " rows are more than the GPU kernel can take");
  const int64_t sums = blocks * args.in.weight.numel();
  auto* const partial = reinterpret_cast<float*>(
      stream.scratch(static_cast<size_t>(sums + (args.in.silu ? n : 0)) * sizeof(float)).data());
  if (!args.in.silu) return gradients(args, args.dy.data, blocks, partial, stream);
  float* const dz = partial + sums;
  if (n > 0) silu_gradient_kernel<<<blocks_for(n, kThreads), kThreads, 0, stream.native()>>>(args, dz);
  gradients(args, static_cast<const float*>(dz), blocks, partial, stream);
}

HEADWAY_KERNEL(cuda, conv_forward<float>);
HEADWAY_KERNEL(cuda, conv_forward<bf16>);
HEADWAY_KERNEL(cuda, conv_backward<float>);
HEADWAY_KERNEL(cuda, conv_backward<bf16>);

}  // namespace
}  // namespace headway
