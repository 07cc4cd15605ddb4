// A thread per token goes over its few logits several times instead of keeping them; a block per routed head
// adds up its share over the tokens, in a fixed order; another per head of a sequence lists its tokens.
#include "kernels/ops/moh_gates.h"

#include "kernels/cuda/launch.cuh"

namespace headway {
namespace {
using namespace cuda;

constexpr int kThreads = 128;

/// exp(z_i - max) / sum over n logits.
struct Softmax {
  float max = -INFINITY, sum = 0;
  template <class F>
  __device__ Softmax(int n, F z) {
    for (int i = 0; i < n; ++i) max = fmaxf(max, z(i));
    for (int i = 0; i < n; ++i) sum += expf(z(i) - max);
  }
  __device__ float operator()(float z) const { return expf(z - max) / sum; }
};

/// What one token's logits say; shared heads first, then routed ones, then the two that mix.
template <class T>
struct Routing {
  const T* logits;
  int shared_heads, routed_heads, top_k;
  bool renormalises;
  Softmax shared, routed, mix;
  float chosen_sum = 0;  // of exp(z - max) over the chosen

  __device__ Routing(const MohConfig& config, const T* z, int E)
      : logits(z),
        shared_heads(static_cast<int>(config.shared_heads)),
        routed_heads(E),
        top_k(static_cast<int>(config.top_k)),
        renormalises(config.renormalises),
        shared(shared_heads, [&](int i) { return shared_logit(i); }),
        routed(E, [&](int e) { return routed_logit(e); }),
        mix(config.shared_heads > 0 ? 2 : 0, [&](int i) { return mix_logit(i); }) {
    for (int e = 0; e < E; ++e)
      if (is_chosen(e)) chosen_sum += expf(routed_logit(e) - routed.max);
  }
  __device__ float shared_logit(int i) const { return to_float(logits[i]); }
  __device__ float routed_logit(int e) const { return to_float(logits[shared_heads + e]); }
  __device__ float mix_logit(int i) const { return to_float(logits[shared_heads + routed_heads + i]); }
  __device__ bool is_chosen(int e) const {
    const float own = routed_logit(e);
    int better = 0;
    for (int i = 0; i < routed_heads; ++i) {
      const float other = routed_logit(i);
      better += other > own || (other == own && i < e);
    }
    return better < top_k;
  }
  __device__ float mix_weight(int i) const {
    return shared_heads > 0 ? mix(mix_logit(i)) : static_cast<float>(i);
  }
  /// r or pr of a chosen head.
  __device__ float share(int e) const {
    return renormalises ? expf(routed_logit(e) - routed.max) / chosen_sum : routed(routed_logit(e));
  }
  __device__ float shared_factor() const {
    return renormalises ? 2.0f * static_cast<float>(shared_heads) : 1.0f;
  }
  __device__ float routed_factor() const {
    return renormalises ? static_cast<float>((shared_heads > 0 ? 2 : 1) * top_k) : 1.0f;
  }
};

template <class T>
__global__ void moh_gates_forward_kernel(MohGatesForward<T> a) {
  const int64_t i = static_cast<int64_t>(blockIdx.x) * blockDim.x + threadIdx.x;
  const int64_t length = a.z.size[1], H = a.gates.size[1], b = i / length, t = i % length;
  if (i >= a.z.size[0] * length) return;
  const Routing<T> routing(a.config, a.z.data + i * a.z.size[2], static_cast<int>(a.fractions.size[0]));
  const auto gate = [&](int h) -> float& { return a.gates.data[(b * H + h) * length + t]; };
  for (int h = 0; h < routing.shared_heads; ++h)
    gate(h) = routing.shared_factor() * routing.mix_weight(0) * routing.shared(routing.shared_logit(h));
  for (int e = 0; e < routing.routed_heads; ++e)
    gate(routing.shared_heads + e) =
        routing.is_chosen(e) ? routing.routed_factor() * routing.mix_weight(1) * routing.share(e) : 0.0f;
}

constexpr int kListThreads = 1024, kTokensOfThread = 8;

/// A block per head of a sequence, which goes over its tokens from the first to the last.
template <class T>
__global__ void __launch_bounds__(kListThreads) list_rows_kernel(MohGatesForward<T> a) {
  __shared__ int of_warp[kListThreads / kWarp];
  const int length = static_cast<int>(a.gates.size[2]), thread = static_cast<int>(threadIdx.x),
            warp = thread / kWarp, lane = thread % kWarp;
  const float* const gates = a.gates.data + static_cast<int64_t>(blockIdx.x) * length;
  int32_t* const rows = a.row_index.data + static_cast<int64_t>(blockIdx.x) * length;
  int listed = 0;
  for (int first = 0; first < length; first += kListThreads * kTokensOfThread) {
    const int own = first + thread * kTokensOfThread;
    unsigned used = 0;  // bit i: token own + i
#pragma unroll
    for (int i = 0; i < kTokensOfThread; ++i)
      if (own + i < length && gates[own + i] != 0) used |= 1u << i;
    int before = __popc(used);  // of this thread, then up to it in the warp
    for (int offset = 1; offset < kWarp; offset *= 2) {
      const int other = __shfl_up_sync(0xffffffffu, before, offset);
      if (lane >= offset) before += other;
    }
    if (lane == kWarp - 1) of_warp[warp] = before;
    before -= __popc(used);
    __syncthreads();
    int all = 0;
    for (int i = 0; i < kListThreads / kWarp; ++i) {
      if (i == warp) before += all;
      all += of_warp[i];
    }
    __syncthreads();
    for (; used != 0; used &= used - 1) rows[listed + before++] = own + __ffs(static_cast<int>(used)) - 1;
    listed += all;
  }
  for (int i = listed + thread; i < length; i += kListThreads) rows[i] = -1;
}

/// probabilities [E]: P
template <class T>
__global__ void __launch_bounds__(kThreads) head_load_kernel(MohGatesForward<T> a, float* probabilities) {
  const int e = blockIdx.x;
  const int64_t n = a.z.size[0] * a.z.size[1];
  float probability = 0, chosen = 0;
  for (int64_t i = threadIdx.x; i < n; i += kThreads) {
    const Routing<T> routing(a.config, a.z.data + i * a.z.size[2], static_cast<int>(a.fractions.size[0]));
    probability += routing.routed(routing.routed_logit(e));
    chosen += routing.is_chosen(e) ? 1.0f : 0.0f;
  }
  probability = block_sum(probability);
  chosen = block_sum(chosen);
  if (threadIdx.x != 0) return;
  a.fractions.data[e] = chosen / static_cast<float>(n);
  probabilities[e] = probability / static_cast<float>(n);
}

template <class T>
__global__ void balance_loss_kernel(MohGatesForward<T> a, const float* probabilities) {
  const int E = static_cast<int>(a.fractions.size[0]);
  float balance = 0;
  for (int e = 0; e < E; ++e) balance += probabilities[e] * a.fractions.data[e];
  a.balance_loss.data[0] = a.config.renormalises ? static_cast<float>(E) * balance : balance;
}

template <class T>
__global__ void moh_gates_backward_kernel(MohGatesBackward<T> a) {
  const int64_t i = static_cast<int64_t>(blockIdx.x) * blockDim.x + threadIdx.x;
  const int64_t length = a.z.size[1], n = a.z.size[0] * length, b = i / length, t = i % length;
  if (i >= n) return;
  const int E = static_cast<int>(a.fractions.size[0]);
  const Routing<T> routing(a.config, a.z.data + i * a.z.size[2], E);
  const int Hs = routing.shared_heads;
  T* const dz = a.dz.data + i * a.z.size[2];
  const auto dgate = [&](int h) { return a.dgates ? a.dgates.data[(b * (Hs + E) + h) * length + t] : 0.0f; };
  const float mix0 = routing.mix_weight(0), mix1 = routing.mix_weight(1);
  const float to_shared = routing.shared_factor() * mix0, to_routed = routing.routed_factor() * mix1;
  float balance = a.dbalance_loss ? a.dbalance_loss.data[0] / static_cast<float>(n) : 0.0f;
  if (routing.renormalises) balance *= static_cast<float>(E);

  // Means of the gradients under each softmax; those of the mixing weights before their softmax.
  float mean_shared = 0, mean_routed = 0, mean_balance = 0, dmix0 = 0, dmix1 = 0;
  for (int h = 0; h < Hs; ++h) {
    const float p = routing.shared(routing.shared_logit(h));
    mean_shared += p * dgate(h) * to_shared;
    dmix0 += dgate(h) * routing.shared_factor() * p;
  }
  for (int e = 0; e < E; ++e) {
    mean_balance += routing.routed(routing.routed_logit(e)) * balance * a.fractions.data[e];
    if (!routing.is_chosen(e)) continue;
    const float share = routing.share(e);
    mean_routed += share * dgate(Hs + e) * to_routed;
    dmix1 += dgate(Hs + e) * routing.routed_factor() * share;
  }
  for (int h = 0; h < Hs; ++h)
    dz[h] = from_float<T>(routing.shared(routing.shared_logit(h)) * (dgate(h) * to_shared - mean_shared));
  for (int e = 0; e < E; ++e) {
    const bool chosen = routing.is_chosen(e);
    const float p = routing.routed(routing.routed_logit(e));
    const float share = !routing.renormalises ? p : chosen ? routing.share(e) : 0.0f;
    const float d = chosen ? dgate(Hs + e) * to_routed : 0.0f;
    dz[Hs + e] =
        from_float<T>(share * (d - mean_routed) + p * (balance * a.fractions.data[e] - mean_balance));
  }
  if (Hs == 0) return;
  const float mean_mix = mix0 * dmix0 + mix1 * dmix1;
  dz[Hs + E] = from_float<T>(mix0 * (dmix0 - mean_mix));
  dz[Hs + E + 1] = from_float<T>(mix1 * (dmix1 - mean_mix));
}

template <class T>
void moh_gates_forward(const MohGatesForward<T>& args, Stream& stream) {
  const int64_t n = args.z.size[0] * args.z.size[1], E = args.fractions.size[0];
  if (n == 0) return;
  auto* const probabilities =
      reinterpret_cast<float*>(stream.scratch(static_cast<size_t>(E) * sizeof(float)).data());
  moh_gates_forward_kernel<<<blocks_for(n, kThreads), kThreads, 0, stream.native()>>>(args);
  check_launch(args.name);
  list_rows_kernel<T>
      <<<static_cast<unsigned>(args.gates.size[0] * args.gates.size[1]), kListThreads, 0, stream.native()>>>(
          args);
  check_launch(args.name);
  head_load_kernel<<<static_cast<unsigned>(E), kThreads, 0, stream.native()>>>(args, probabilities);
  check_launch(args.name);
  balance_loss_kernel<<<1, 1, 0, stream.native()>>>(args, probabilities);
  check_launch(args.name);
}

template <class T>
void moh_gates_backward(const MohGatesBackward<T>& args, Stream& stream) {
  const int64_t n = args.z.size[0] * args.z.size[1];
  if (n == 0) return;
  moh_gates_backward_kernel<<<blocks_for(n, kThreads), kThreads, 0, stream.native()>>>(args);
  check_launch(args.name);
}

HEADWAY_KERNEL(cuda, moh_gates_forward<float>);
HEADWAY_KERNEL(cuda, moh_gates_forward<bf16>);
HEADWAY_KERNEL(cuda, moh_gates_backward<float>);
HEADWAY_KERNEL(cuda, moh_gates_backward<bf16>);

}  // namespace
}  // namespace headway
