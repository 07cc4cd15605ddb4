// A thread per token and channel: sequences of a batch share its angle. The gradient of the angles is summed
// over blocks of tokens, then over blocks.
#include "kernels/ops/lrpe.h"

#include <numbers>

#include "kernels/cuda/add_blocks.h"
#include "kernels/cuda/launch.cuh"

namespace headway {
namespace {
using namespace cuda;

struct Turn {
  float cosine, sine;

  /// The angle is formed, and brought within a turn, in double.
  __device__ Turn(int64_t position, float theta) {
    constexpr double kTurn = 2 * std::numbers::pi;
    const double angle = static_cast<double>(position) * static_cast<double>(theta);
    sincosf(static_cast<float>(angle - kTurn * rint(angle / kTurn)), &sine, &cosine);
  }
};

/// Where a token's channel lies in x, and its cosine feature in y; the sine feature is Dh further.
struct Place {
  int64_t x, y;

  __device__ Place(int64_t row, int64_t channel, int64_t width, int64_t Dh)
      : x(row * width + channel), y(2 * (row * width + channel / Dh * Dh) + channel % Dh) {}
};

template <class T>
__global__ void lrpe_forward_kernel(LrpeForward<T> a) {
  const int64_t length = a.x.size[1], Dh = a.x.size[3], width = a.x.size[2] * Dh;
  const int64_t index = static_cast<int64_t>(blockIdx.x) * blockDim.x + threadIdx.x;
  if (index >= length * width) return;
  const int64_t t = index / width, channel = index % width;
  const Turn turn(a.positions.of(t), a.theta.data[channel]);
  for (int64_t b = 0; b < a.x.size[0]; ++b) {
    const Place place(b * length + t, channel, width, Dh);
    const float x = to_float(a.x.data[place.x]);
    a.y.data[place.y] = from_float<T>(x * turn.cosine);
    a.y.data[place.y + Dh] = from_float<T>(x * turn.sine);
  }
}

constexpr int kColumns = 32, kRows = 8;  // of a block of threads
constexpr int64_t kTokensPerBlock = 64;

/// partial [blocks,H*Dh]
template <class T>
__global__ void lrpe_backward_kernel(LrpeBackward<T> a, float* partial) {
  __shared__ float sums[kRows][kColumns];
  const int64_t length = a.x.size[1], Dh = a.x.size[3], width = a.x.size[2] * Dh;
  const int64_t channel = static_cast<int64_t>(blockIdx.x) * kColumns + threadIdx.x;
  const int64_t first = static_cast<int64_t>(blockIdx.y) * kTokensPerBlock;
  const int64_t last = min(first + kTokensPerBlock, length);
  float sum = 0;
  for (int64_t t = first + threadIdx.y; t < last && channel < width; t += kRows) {
    const Turn turn(a.positions.of(t), a.theta.data[channel]);
    float of_token = 0;
    for (int64_t b = 0; b < a.x.size[0]; ++b) {
      const Place place(b * length + t, channel, width, Dh);
      const float of_cosine = to_float(a.dy.data[place.y]), of_sine = to_float(a.dy.data[place.y + Dh]);
      a.dx.data[place.x] = from_float<T>(turn.cosine * of_cosine + turn.sine * of_sine);
      of_token += to_float(a.x.data[place.x]) * (turn.cosine * of_sine - turn.sine * of_cosine);
    }
    sum += static_cast<float>(a.positions.of(t)) * of_token;
  }
  sums[threadIdx.y][threadIdx.x] = sum;
  __syncthreads();
  if (threadIdx.y != 0 || channel >= width) return;
#pragma unroll
  for (int r = 1; r < kRows; ++r) sum += sums[r][threadIdx.x];
  partial[blockIdx.y * width + channel] = sum;
}

template <class T>
void lrpe_forward(const LrpeForward<T>& args, Stream& stream) {
  if (args.x.numel() == 0) return;
  constexpr int kThreads = 256;
  const int64_t threads = args.x.numel() / args.x.size[0];
  lrpe_forward_kernel<<<blocks_for(threads, kThreads), kThreads, 0, stream.native()>>>(args);
  check_launch(args.name);
}

template <class T>
void lrpe_backward(const LrpeBackward<T>& args, Stream& stream) {
  const int64_t width = args.theta.numel();
  const unsigned blocks = std::max(1u, blocks_for(args.x.size[1], kTokensPerBlock));
  HEADWAY_CHECK(
      blocks <= 65535, ShapeError,
      "lrpe_backward: " + std::to_string(args.x.size[1]) + " tokens are more than the GPU kernel can take");
  if (width == 0) return;
  auto* const partial =
      reinterpret_cast<float*>(stream.scratch(static_cast<size_t>(blocks) * width * sizeof(float)).data());
  lrpe_backward_kernel<<<dim3(blocks_for(width, kColumns), blocks), dim3(kColumns, kRows), 0,
                         stream.native()>>>(args, partial);
  check_launch(args.name);
  add_blocks(partial, blocks, width, args.dtheta.data, args.accumulate_theta, stream);
}

HEADWAY_KERNEL(cuda, lrpe_forward<float>);
HEADWAY_KERNEL(cuda, lrpe_forward<bf16>);
HEADWAY_KERNEL(cuda, lrpe_backward<float>);
HEADWAY_KERNEL(cuda, lrpe_backward<bf16>);

}  // namespace
}  // namespace headway
