#include "kernels/ops/adamw.h"

#include "kernels/cuda/rows.cuh"

namespace headway {
namespace {
using namespace cuda;

constexpr int kUpdateThreads = 256, kPack = 4, kPacksPerThread = 8;
constexpr int64_t kChunk = kUpdateThreads * kPack * kPacksPerThread;  // elements of a block
constexpr int kMostParameters = 48;                                   // arguments of a kernel end at 4 KB

struct ParameterMemory {
  float *p, *m, *v;
  const float* grad;
  bf16* rounded;
  int64_t count;
  float decay;
  unsigned first_block;
  bool is_aligned;  // to packs
};

/// One launch for many parameters: a block finds its own by the number of its first block.
struct Update {
  const double* grad_scale;
  float lr, beta1, beta2, eps, inverse_correction1, inverse_correction2;
  int num_parameters;
  ParameterMemory parameters[kMostParameters];

  __device__ void apply(float g, float& p, float& m, float& v, float decay) const {
    m += (1 - beta1) * (g - m);
    v += (1 - beta2) * (g * g - v);
    p -= lr * (m * inverse_correction1 / (sqrtf(v * inverse_correction2) + eps) + decay * p);
  }
};
static_assert(sizeof(Update) <= 4096);

/// V elements from i of a parameter.
template <int V>
__device__ void update_at(const Update& update, const ParameterMemory& memory, float grad_scale, int64_t i) {
  float grad[V], p[V], m[V], v[V];
  load(memory.grad + i, grad);
  load(memory.p + i, p);
  load(memory.m + i, m);
  load(memory.v + i, v);
#pragma unroll
  for (int e = 0; e < V; ++e) update.apply(grad[e] * grad_scale, p[e], m[e], v[e], memory.decay);
  store(memory.p + i, p);
  store(memory.m + i, m);
  store(memory.v + i, v);
  if (memory.rounded) store(memory.rounded + i, p);
}

__global__ void __launch_bounds__(kUpdateThreads) adamw_kernel(const __grid_constant__ Update update) {
  const auto grad_scale = static_cast<float>(*update.grad_scale);
  if (grad_scale < 0) return;
  int index = update.num_parameters - 1;
  while (update.parameters[index].first_block > blockIdx.x) --index;
  const ParameterMemory& memory = update.parameters[index];
  const int64_t first = (blockIdx.x - memory.first_block) * kChunk;
#pragma unroll 2
  for (int k = 0; k < kPacksPerThread; ++k) {
    const int64_t i = first + (k * kUpdateThreads + threadIdx.x) * kPack;
    if (memory.is_aligned && i + kPack <= memory.count)
      update_at<kPack>(update, memory, grad_scale, i);
    else
      for (int64_t j = i; j < min(i + kPack, memory.count); ++j) update_at<1>(update, memory, grad_scale, j);
  }
}

void adamw(const AdamWUpdate<float>& args, Stream& stream) {
  Update update{.grad_scale = args.grad_scale.data,
                .lr = static_cast<float>(args.lr),
                .beta1 = static_cast<float>(args.beta1),
                .beta2 = static_cast<float>(args.beta2),
                .eps = static_cast<float>(args.eps),
                .inverse_correction1 = static_cast<float>(1 / args.correction1),
                .inverse_correction2 = static_cast<float>(1 / args.correction2),
                .num_parameters = 0,
                .parameters = {}};
  unsigned blocks = 0;
  const auto launch_update = [&] {
    if (blocks > 0) adamw_kernel<<<blocks, kUpdateThreads, 0, stream.native()>>>(update);
    check_launch(args.name);
    update.num_parameters = 0;
    blocks = 0;
  };
  for (const AdamWParameter<float>& parameter : args.parameters) {
    const auto is_packed = [](const void* data) { return is_aligned(data, kPack * sizeof(float)); };
    if (parameter.p.size[0] == 0) continue;
    update.parameters[update.num_parameters++] = {
        .p = parameter.p.data,
        .m = parameter.m.data,
        .v = parameter.v.data,
        .grad = parameter.grad.data,
        .rounded = parameter.rounded.data,
        .count = parameter.p.size[0],
        .decay = static_cast<float>(parameter.decay),
        .first_block = blocks,
        .is_aligned = is_packed(parameter.p.data) && is_packed(parameter.m.data) &&
                      is_packed(parameter.v.data) && is_packed(parameter.grad.data) &&
                      is_packed(parameter.rounded.data)};
    blocks += blocks_for(parameter.p.size[0], kChunk);
    if (update.num_parameters == kMostParameters) launch_update();
  }
  launch_update();
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
