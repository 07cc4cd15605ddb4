#include "kernels/ops/adamw.h"

#include "kernels/cuda/map.cuh"

namespace headway {
namespace {
using namespace cuda;

struct Update {
  float grad_scale, lr, beta1, beta2, eps, decay, inverse_correction1, inverse_correction2;

  __device__ void operator()(int64_t, float grad, float& p, float& m, float& v) const {
    const float g = grad * grad_scale;
    m += (1 - beta1) * (g - m);
    v += (1 - beta2) * (g * g - v);
    p -= lr * (m * inverse_correction1 / (sqrtf(v * inverse_correction2) + eps) + decay * p);
  }
  __device__ void operator()(int64_t i, float grad, float& p, float& m, float& v, float& rounded) const {
    (*this)(i, grad, p, m, v);
    rounded = p;
  }
};

void adamw(const AdamWUpdate<float>& args, Stream& stream) {
  const Update update{static_cast<float>(args.grad_scale),
                      static_cast<float>(args.lr),
                      static_cast<float>(args.beta1),
                      static_cast<float>(args.beta2),
                      static_cast<float>(args.eps),
                      static_cast<float>(args.decay),
                      static_cast<float>(1 / args.correction1),
                      static_cast<float>(1 / args.correction2)};
  const int64_t n = args.p.size[0];
  if (args.rounded)
    map(n, stream, args.name, update, in(args.grad.data), in_out(args.p.data), in_out(args.m.data),
        in_out(args.v.data), out(args.rounded.data));
  else
    map(n, stream, args.name, update, in(args.grad.data), in_out(args.p.data), in_out(args.m.data),
        in_out(args.v.data));
}

constexpr int kThreads = 512;
constexpr unsigned kMaxBlocks = 1024;

__global__ void __launch_bounds__(kThreads) sum_squares_kernel(const float* x, int64_t n, double* partial) {
  double sum = 0;
  const int64_t stride = static_cast<int64_t>(gridDim.x) * kThreads * 4;
  for (int64_t i = (static_cast<int64_t>(blockIdx.x) * kThreads + threadIdx.x) * 4; i < n; i += stride) {
    float here = 0;
    if (i + 4 <= n) {
      const auto pack = *reinterpret_cast<const Pack<float, 4>*>(x + i);
#pragma unroll
      for (int v = 0; v < 4; ++v) here += pack.values[v] * pack.values[v];
    } else {
      for (int64_t j = i; j < n; ++j) here += x[j] * x[j];
    }
    sum += here;
  }
  sum = block_sum(sum);
  if (threadIdx.x == 0) partial[blockIdx.x] = sum;
}

__global__ void __launch_bounds__(kThreads)
    add_squares_kernel(const double* partial, unsigned count, double* sum, bool accumulate) {
  double total = 0;
  for (unsigned i = threadIdx.x; i < count; i += kThreads) total += partial[i];
  total = block_sum(total);
  if (threadIdx.x == 0) *sum = accumulate ? *sum + total : total;
}

void sum_squares(const SumSquares<float>& args, Stream& stream) {
  HEADWAY_CHECK(is_aligned(args.x.data, 16), ShapeError, "sum_squares: x must be aligned to 16 bytes");
  const unsigned blocks = std::clamp(blocks_for(args.x.size[0], kThreads * 4), 1u, kMaxBlocks);
  auto* const partial = reinterpret_cast<double*>(stream.scratch(blocks * sizeof(double)).data());
  sum_squares_kernel<<<blocks, kThreads, 0, stream.native()>>>(args.x.data, args.x.size[0], partial);
  add_squares_kernel<<<1, kThreads, 0, stream.native()>>>(partial, blocks, args.sum.data, args.accumulate);
  check_launch(args.name);
}

HEADWAY_KERNEL(cuda, adamw);
HEADWAY_KERNEL(cuda, sum_squares);

}  // namespace
}  // namespace headway
