// Rows of D values, a warp each. The weight's gradient is summed in two stages of fixed order: every warp
// keeps sums of the rows it sees in shared memory, a block adds those of its warps, and a second kernel those
// of the blocks.
#include "kernels/ops/norm.h"

#include "kernels/cuda/rows.cuh"

namespace headway {
namespace {
using namespace cuda;

constexpr int kWarps = 8;

template <class T, int V>
__global__ void __launch_bounds__(kWarps* kWarp) norm_forward_kernel(NormForward<T> a) {
  const int lane = threadIdx.x % kWarp;
  const int64_t row = static_cast<int64_t>(blockIdx.x) * kWarps + threadIdx.x / kWarp;
  const int64_t D = a.x.size[1];
  if (row >= a.x.size[0]) return;
  const T* const x = a.x.data + row * D;
  T* const y = a.y.data + row * D;
  const bool layer = a.kind == NormKind::layer;
  float mean = 0, squares = 0;
  if (layer) {
    for_columns<V>(D, lane, [&](int64_t d) {
      float values[V];
      load(x + d, values);
#pragma unroll
      for (int v = 0; v < V; ++v) mean += values[v];
    });
    mean = warp_sum(mean) / static_cast<float>(D);
  }
  for_columns<V>(D, lane, [&](int64_t d) {
    float values[V];
    load(x + d, values);
#pragma unroll
    for (int v = 0; v < V; ++v) squares += (values[v] - mean) * (values[v] - mean);
  });
  const float inverse = rsqrtf(warp_sum(squares) / static_cast<float>(D) + static_cast<float>(a.eps));
  for_columns<V>(D, lane, [&](int64_t d) {
    float values[V];
    load(x + d, values);
#pragma unroll
    for (int v = 0; v < V; ++v) {
      values[v] = (values[v] - mean) * inverse * a.weight.data[d + v];
      if (a.bias) values[v] += a.bias.data[d + v];
    }
    store(y + d, values);
  });
  if (lane == 0) {
    a.inverse.data[row] = inverse;
    if (layer) a.mean.data[row] = mean;
  }
}

/// partial [blocks, 2, D]: sums of dy xhat, and of dy, over the rows of a block.
template <class T, int V>
__global__ void __launch_bounds__(kWarps* kWarp) norm_backward_kernel(NormBackward<T> a, float* partial) {
  extern __shared__ float sums[];  // [warps, 2, D]
  const int lane = threadIdx.x % kWarp, warp = threadIdx.x / kWarp, warps = blockDim.x / kWarp;
  const int64_t N = a.x.size[0], D = a.x.size[1];
  float* const dweight = sums + warp * 2 * D;
  float* const dbias = dweight + D;
  for (int64_t d = lane; d < 2 * D; d += kWarp) dweight[d] = 0;
  __syncwarp();
  const bool layer = a.kind == NormKind::layer;
  for (int64_t row = static_cast<int64_t>(blockIdx.x) * warps + warp; row < N;
       row += static_cast<int64_t>(gridDim.x) * warps) {
    const T *const x = a.x.data + row * D, *const dy = a.dy.data + row * D;
    T* const dx = a.dx.data + row * D;
    const float inverse = a.inverse.data[row], mean = layer ? a.mean.data[row] : 0.0f;
    float sum_g = 0, sum_gx = 0;
    for_columns<V>(D, lane, [&](int64_t d) {
      float xs[V], dys[V];
      load(x + d, xs);
      load(dy + d, dys);
#pragma unroll
      for (int v = 0; v < V; ++v) {
        const float xhat = (xs[v] - mean) * inverse, g = dys[v] * a.weight.data[d + v];
        sum_g += g;
        sum_gx += g * xhat;
        dweight[d + v] += dys[v] * xhat;
        dbias[d + v] += dys[v];
      }
    });
    const float mean_gx = warp_sum(sum_gx) / static_cast<float>(D);
    const float mean_g = layer ? warp_sum(sum_g) / static_cast<float>(D) : 0.0f;
    for_columns<V>(D, lane, [&](int64_t d) {
      float xs[V], dys[V];
      load(x + d, xs);
      load(dy + d, dys);
#pragma unroll
      for (int v = 0; v < V; ++v) {
        const float xhat = (xs[v] - mean) * inverse, g = dys[v] * a.weight.data[d + v];
        xs[v] = inverse * (g - mean_g - xhat * mean_gx);
      }
      store(dx + d, xs);
    });
  }
  __syncthreads();
  for (int64_t d = threadIdx.x; d < 2 * D; d += blockDim.x) {
    float sum = 0;
    for (int w = 0; w < warps; ++w) sum += sums[w * 2 * D + d];
    partial[blockIdx.x * 2 * D + d] = sum;
  }
}

__global__ void add_partial_kernel(const float* partial, int blocks, int64_t D, float* dweight, float* dbias,
                                   bool accumulate_weight, bool accumulate_bias) {
  const int64_t d = static_cast<int64_t>(blockIdx.x) * blockDim.x + threadIdx.x;
  if (d >= 2 * D) return;
  float* const to = d < D ? dweight + d : dbias ? dbias + d - D : nullptr;
  if (!to) return;
  float sum = 0;
  for (int b = 0; b < blocks; ++b) sum += partial[b * 2 * D + d];
  *to = (d < D ? accumulate_weight : accumulate_bias) ? *to + sum : sum;
}

template <class T>
void norm_forward(const NormForward<T>& args, Stream& stream) {
  if (args.x.numel() == 0) return;
  constexpr int V = 16 / sizeof(T);
  const unsigned blocks = blocks_for(args.x.size[0], kWarps);
  const bool wide = args.x.size[1] % V == 0 && is_aligned(args.x.data, 16) && is_aligned(args.y.data, 16);
  if (wide)
    norm_forward_kernel<T, V><<<blocks, kWarps * kWarp, 0, stream.native()>>>(args);
  else
    norm_forward_kernel<T, 1><<<blocks, kWarps * kWarp, 0, stream.native()>>>(args);
  check_launch(args.name);
}

template <class T>
void norm_backward(const NormBackward<T>& args, Stream& stream) {
  const int64_t N = args.x.size[0], D = args.x.size[1];
  constexpr int V = 16 / sizeof(T);
  constexpr size_t kSharedBytes = 96 << 10;  // two blocks fit a multiprocessor
  constexpr unsigned kMaxBlocks = 264;
  const size_t bytes_per_warp = static_cast<size_t>(2 * D) * sizeof(float);
  HEADWAY_CHECK(
      bytes_per_warp <= 2 * kSharedBytes, ShapeError,
      "norm_backward: rows of " + std::to_string(D) + " values are wider than the GPU kernel can take");
  const int warps =
      static_cast<int>(std::clamp<size_t>(kSharedBytes / std::max<size_t>(bytes_per_warp, 1), 1, kWarps));
  const size_t shared = static_cast<size_t>(warps) * bytes_per_warp;
  const unsigned blocks = std::min(kMaxBlocks, std::max(1u, blocks_for(N, warps)));
  auto* const partial =
      reinterpret_cast<float*>(stream.scratch(static_cast<size_t>(blocks) * 2 * D * sizeof(float)).data());
  const bool wide = D % V == 0 && is_aligned(args.x.data, 16) && is_aligned(args.dy.data, 16) &&
                    is_aligned(args.dx.data, 16);
  const auto kernel = wide ? norm_backward_kernel<T, V> : norm_backward_kernel<T, 1>;
  check_cuda(
      cudaFuncSetAttribute(kernel, cudaFuncAttributeMaxDynamicSharedMemorySize, static_cast<int>(shared)),
      args.name);
  kernel<<<blocks, static_cast<unsigned>(warps) * kWarp, shared, stream.native()>>>(args, partial);
  check_launch(args.name);
  add_partial_kernel<<<blocks_for(2 * D, 256), 256, 0, stream.native()>>>(
      partial, static_cast<int>(blocks), D, args.dweight.data, args.dbias.data, args.accumulate_weight,
      args.accumulate_bias);
  check_launch(args.name);
}

HEADWAY_KERNEL(cuda, norm_forward<float>);
HEADWAY_KERNEL(cuda, norm_forward<bf16>);
HEADWAY_KERNEL(cuda, norm_backward<float>);
HEADWAY_KERNEL(cuda, norm_backward<bf16>);

}  // namespace
}  // namespace headway
