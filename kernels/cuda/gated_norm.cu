// A warp per row. The weight's gradient is summed as in norm.cu: per warp in shared memory, per block, over
// blocks.
#include "kernels/ops/gated_norm.h"

#include "kernels/cuda/add_blocks.h"
#include "kernels/cuda/rows.cuh"

namespace headway {
namespace {
using namespace cuda;

constexpr int kWarps = 8;

/// act(u) and its derivative.
struct Gate {
  float value, slope;
};
__device__ Gate gate_of(float u, GateActivation activation) {
  if (activation == GateActivation::identity) return {u, 1};
  const float s = 1 / (1 + expf(-u));
  return {s, s * (1 - s)};
}

template <class T, int V>
__global__ void __launch_bounds__(kWarps* kWarp) gated_norm_forward_kernel(GatedNormForward<T> a) {
  const int lane = threadIdx.x % kWarp;
  const int64_t row = static_cast<int64_t>(blockIdx.x) * kWarps + threadIdx.x / kWarp, D = a.x.size[1];
  if (row >= a.x.size[0]) return;
  const T* const x = a.x.data + row * D;
  float squares = 0;
  for_columns<V>(D, lane, [&](int64_t d) {
    float values[V];
    load(x + d, values);
#pragma unroll
    for (int v = 0; v < V; ++v) squares += values[v] * values[v];
  });
  const float inverse = rsqrtf(warp_sum(squares) / static_cast<float>(D) + static_cast<float>(a.eps));
  for_columns<V>(D, lane, [&](int64_t d) {
    float values[V], gates[V];
    load(x + d, values);
    if (a.gate) load(a.gate.data + row * D + d, gates);
#pragma unroll
    for (int v = 0; v < V; ++v) {
      values[v] *= inverse;
      if (a.weight) values[v] *= a.weight.data[d + v];
      if (a.gate) values[v] *= gate_of(gates[v], a.activation).value;
    }
    store(a.y.data + row * D + d, values);
  });
  if (lane == 0) a.inverse.data[row] = inverse;
}

/// partial [blocks,D]: sums of dy n act(gate) over the rows of a block; unused without a weight.
template <class T, int V>
__global__ void __launch_bounds__(kWarps* kWarp)
    gated_norm_backward_kernel(GatedNormBackward<T> a, float* partial) {
  extern __shared__ float sums[];  // [warps,D] with a weight
  const int lane = threadIdx.x % kWarp, warp = threadIdx.x / kWarp, warps = blockDim.x / kWarp;
  const int64_t N = a.x.size[0], D = a.x.size[1];
  float* const dweight = sums + warp * D;
  if (a.weight)
    for (int64_t d = lane; d < D; d += kWarp) dweight[d] = 0;
  __syncwarp();
  for (int64_t row = static_cast<int64_t>(blockIdx.x) * warps + warp; row < N;
       row += static_cast<int64_t>(gridDim.x) * warps) {
    const float inverse = a.inverse.data[row];
    /// n and g = dy weight act(gate) of V columns, and what else there is to do with them.
    const auto load_terms = [&](int64_t d, float(&normed)[V], float(&g)[V], auto with_gate) {
      float gates[V];
      load(a.x.data + row * D + d, normed);
      load(a.dy.data + row * D + d, g);
      if (a.gate) load(a.gate.data + row * D + d, gates);
#pragma unroll
      for (int v = 0; v < V; ++v) {
        const Gate gate = a.gate ? gate_of(gates[v], a.activation) : Gate{1, 0};
        const float weight = a.weight ? a.weight.data[d + v] : 1.0f;
        normed[v] *= inverse;
        with_gate(v, g[v] * normed[v], gate, weight);
        g[v] *= weight * gate.value;
      }
    };
    float sum = 0;
    for_columns<V>(D, lane, [&](int64_t d) {
      float normed[V], g[V], dgate[V];
      load_terms(d, normed, g, [&](int v, float product, Gate gate, float weight) {
        dgate[v] = product * weight * gate.slope;
        if (a.weight) dweight[d + v] += product * gate.value;
      });
#pragma unroll
      for (int v = 0; v < V; ++v) sum += g[v] * normed[v];
      if (a.gate) store(a.dgate.data + row * D + d, dgate);
    });
    const float mean = warp_sum(sum) / static_cast<float>(D);
    for_columns<V>(D, lane, [&](int64_t d) {
      float normed[V], g[V];
      load_terms(d, normed, g, [](int, float, Gate, float) {});
#pragma unroll
      for (int v = 0; v < V; ++v) g[v] = inverse * (g[v] - normed[v] * mean);
      store(a.dx.data + row * D + d, g);
    });
  }
  if (!a.weight) return;
  __syncthreads();
  for (int64_t d = threadIdx.x; d < D; d += blockDim.x) {
    float sum = 0;
    for (int w = 0; w < warps; ++w) sum += sums[w * D + d];
    partial[blockIdx.x * D + d] = sum;
  }
}

template <class T>
bool is_wide(const View<const T, 2>& x, std::initializer_list<const void*> others) {
  bool wide = x.size[1] % static_cast<int64_t>(16 / sizeof(T)) == 0 && is_aligned(x.data, 16);
  for (const void* const other : others) wide = wide && is_aligned(other, 16);
  return wide;
}

template <class T>
void gated_norm_forward(const GatedNormForward<T>& args, Stream& stream) {
  if (args.x.numel() == 0) return;
  constexpr int V = 16 / sizeof(T);
  const unsigned blocks = blocks_for(args.x.size[0], kWarps);
  if (is_wide(args.x, {args.y.data, args.gate.data}))
    gated_norm_forward_kernel<T, V><<<blocks, kWarps * kWarp, 0, stream.native()>>>(args);
  else
    gated_norm_forward_kernel<T, 1><<<blocks, kWarps * kWarp, 0, stream.native()>>>(args);
  check_launch(args.name);
}

template <class T>
void gated_norm_backward(const GatedNormBackward<T>& args, Stream& stream) {
  const int64_t N = args.x.size[0], D = args.x.size[1];
  constexpr int V = 16 / sizeof(T);
  constexpr size_t kSharedBytes = 96 << 10;  // two blocks fit a multiprocessor
  const size_t bytes_per_warp = args.weight ? static_cast<size_t>(D) * sizeof(float) : 0;
  HEADWAY_CHECK(
      bytes_per_warp <= 2 * kSharedBytes, ShapeError,
      "gated_norm_backward: rows of " + std::to_string(D) + " values are wider than the GPU kernel can take");
  const int warps =
      static_cast<int>(std::clamp<size_t>(kSharedBytes / std::max<size_t>(bytes_per_warp, 1), 1, kWarps));
  const size_t shared = static_cast<size_t>(warps) * bytes_per_warp;
  const bool wide = is_wide(args.x, {args.dy.data, args.gate.data, args.dx.data, args.dgate.data});
  const auto kernel = wide ? gated_norm_backward_kernel<T, V> : gated_norm_backward_kernel<T, 1>;
  check_cuda(
      cudaFuncSetAttribute(kernel, cudaFuncAttributeMaxDynamicSharedMemorySize, static_cast<int>(shared)),
      args.name);
  const auto threads = static_cast<unsigned>(warps) * kWarp;
  // Many warps hide what a row's second pass waits for; with a weight, no more than leave sums to add up.
  unsigned blocks = std::max(blocks_for(N, warps), 1u);
  float* partial = nullptr;
  if (args.weight) {
    blocks = std::min(blocks, num_resident_blocks(kernel, threads, shared, stream));
    partial =
        reinterpret_cast<float*>(stream.scratch(static_cast<size_t>(blocks) * D * sizeof(float)).data());
  }
  kernel<<<blocks, threads, shared, stream.native()>>>(args, partial);
  check_launch(args.name);
  if (args.weight) add_blocks(partial, blocks, D, args.dweight.data, args.accumulate_weight, stream);
}

HEADWAY_KERNEL(cuda, gated_norm_forward<float>);
HEADWAY_KERNEL(cuda, gated_norm_forward<bf16>);
HEADWAY_KERNEL(cuda, gated_norm_backward<float>);
HEADWAY_KERNEL(cuda, gated_norm_backward<bf16>);

}  // namespace
}  // namespace headway
