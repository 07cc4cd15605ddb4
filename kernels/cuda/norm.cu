// Rows of D values, a warp each. Rows of up to 4 packs a lane stay in registers, so memory is read once;
// wider ones are read again from the cache. The weight's gradient is summed in three stages of fixed order:
// every warp over the rows it sees, a block over its warps, and a second kernel over the blocks.
#include "kernels/ops/norm.h"

#include "kernels/cuda/add_blocks.h"
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

/// dweight and dbias [blocks, D]: sums over the rows of a block.
template <class T, int V>
__global__ void __launch_bounds__(kWarps* kWarp)
    norm_backward_kernel(NormBackward<T> a, float* dweight_of_blocks, float* dbias_of_blocks) {
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
      if (a.accumulate_x) {
        load(dx + d, dys);
#pragma unroll
        for (int v = 0; v < V; ++v) xs[v] += dys[v];
      }
      store(dx + d, xs);
    });
  }
  __syncthreads();
  for (int64_t d = threadIdx.x; d < 2 * D; d += blockDim.x) {
    float sum = 0;
    for (int w = 0; w < warps; ++w) sum += sums[w * 2 * D + d];
    (d < D ? dweight_of_blocks : dbias_of_blocks - D)[blockIdx.x * D + d] = sum;
  }
}

/// A row's packs of V of one lane: pack c starts at column (c * 32 + lane) * V.
template <int V, int kPacks>
struct RowPacks {
  float values[kPacks][V] = {};

  template <class F>
  static __device__ void each(int64_t D, F f) {
    const int lane = threadIdx.x % kWarp;
#pragma unroll
    for (int c = 0; c < kPacks; ++c)
      if (const int64_t d = (c * kWarp + lane) * V; d < D) f(c, d);
  }
  template <class T>
  __device__ void read(const T* row, int64_t D) {
    each(D, [&](int c, int64_t d) { load(row + d, values[c]); });
  }
  template <class T>
  __device__ void write(T* row, int64_t D) const {
    each(D, [&](int c, int64_t d) { store(row + d, values[c]); });
  }
};

template <class T, int V, int kPacks>
__global__ void __launch_bounds__(kWarps* kWarp) short_forward_kernel(NormForward<T> a) {
  using Row = RowPacks<V, kPacks>;
  const int64_t row = static_cast<int64_t>(blockIdx.x) * kWarps + threadIdx.x / kWarp, D = a.x.size[1];
  if (row >= a.x.size[0]) return;
  const bool layer = a.kind == NormKind::layer;
  Row x;
  x.read(a.x.data + row * D, D);
  float mean = 0, squares = 0;
  if (layer) {
    Row::each(D, [&](int c, int64_t) {
#pragma unroll
      for (int v = 0; v < V; ++v) mean += x.values[c][v];
    });
    mean = warp_sum(mean) / static_cast<float>(D);
  }
  Row::each(D, [&](int c, int64_t) {
#pragma unroll
    for (int v = 0; v < V; ++v) squares += (x.values[c][v] - mean) * (x.values[c][v] - mean);
  });
  const float inverse = rsqrtf(warp_sum(squares) / static_cast<float>(D) + static_cast<float>(a.eps));
  Row::each(D, [&](int c, int64_t d) {
    float weight[V], bias[V] = {};
    load(a.weight.data + d, weight);
    if (a.bias) load(a.bias.data + d, bias);
#pragma unroll
    for (int v = 0; v < V; ++v) x.values[c][v] = (x.values[c][v] - mean) * inverse * weight[v] + bias[v];
  });
  x.write(a.y.data + row * D, D);
  if (threadIdx.x % kWarp == 0) {
    a.inverse.data[row] = inverse;
    if (layer) a.mean.data[row] = mean;
  }
}

/// dweight and dbias [blocks, D]: sums over the rows of a block.
template <class T, int V, int kPacks>
__global__ void __launch_bounds__(kWarps* kWarp)
    short_backward_kernel(NormBackward<T> a, float* dweight_of_blocks, float* dbias_of_blocks) {
  using Row = RowPacks<V, kPacks>;
  const int64_t N = a.x.size[0], D = a.x.size[1];
  const int warp = threadIdx.x / kWarp;
  const bool layer = a.kind == NormKind::layer;
  Row dweight, dbias;
  for (int64_t row = static_cast<int64_t>(blockIdx.x) * kWarps + warp; row < N;
       row += static_cast<int64_t>(gridDim.x) * kWarps) {
    Row x, dy;
    x.read(a.x.data + row * D, D);
    dy.read(a.dy.data + row * D, D);
    const float inverse = a.inverse.data[row], mean = layer ? a.mean.data[row] : 0.0f;
    float sum_g = 0, sum_gx = 0;
    Row::each(D, [&](int c, int64_t d) {
      float weight[V];
      load(a.weight.data + d, weight);
#pragma unroll
      for (int v = 0; v < V; ++v) {
        float &xhat = x.values[c][v], &g = dy.values[c][v];
        xhat = (xhat - mean) * inverse;
        dweight.values[c][v] += g * xhat;
        dbias.values[c][v] += g;
        g *= weight[v];
        sum_g += g;
        sum_gx += g * xhat;
      }
    });
    const float mean_gx = warp_sum(sum_gx) / static_cast<float>(D);
    const float mean_g = layer ? warp_sum(sum_g) / static_cast<float>(D) : 0.0f;
    Row before;
    if (a.accumulate_x) before.read(a.dx.data + row * D, D);
    Row::each(D, [&](int c, int64_t) {
#pragma unroll
      for (int v = 0; v < V; ++v)
        x.values[c][v] =
            before.values[c][v] + inverse * (dy.values[c][v] - mean_g - x.values[c][v] * mean_gx);
    });
    x.write(a.dx.data + row * D, D);
  }
  __shared__ float sums[2][kPacks * kWarp * V];
  for (int w = 0; w < kWarps; ++w) {
    if (w == warp)
      Row::each(D, [&](int c, int64_t d) {
#pragma unroll
        for (int v = 0; v < V; ++v) {
          sums[0][d + v] = (w == 0 ? 0.0f : sums[0][d + v]) + dweight.values[c][v];
          sums[1][d + v] = (w == 0 ? 0.0f : sums[1][d + v]) + dbias.values[c][v];
        }
      });
    __syncthreads();
  }
  for (int64_t d = threadIdx.x; d < D; d += kWarps * kWarp) {
    dweight_of_blocks[blockIdx.x * D + d] = sums[0][d];
    dbias_of_blocks[blockIdx.x * D + d] = sums[1][d];
  }
}

constexpr int kMostPacks = 4;

/// Calls f<kPacks>() for rows that fit the registers of a warp in packs of V; false for others.
template <int V, class F>
bool with_packs(int64_t D, F f) {
  const int64_t packs = (D + kWarp * V - 1) / (kWarp * V);
  if (D % V != 0 || packs > kMostPacks) return false;
  switch (packs) {
    case 1:
      f.template operator()<1>();
      break;
    case 2:
      f.template operator()<2>();
      break;
    case 3:
      f.template operator()<3>();
      break;
    default:
      f.template operator()<4>();
      break;
  }
  return true;
}

template <class T>
void norm_forward(const NormForward<T>& args, Stream& stream) {
  if (args.x.numel() == 0) return;
  constexpr int V = 16 / sizeof(T);
  const unsigned blocks = blocks_for(args.x.size[0], kWarps);
  const bool wide = args.x.size[1] % V == 0 && is_aligned(args.x.data, 16) && is_aligned(args.y.data, 16);
  const auto launch_short = [&]<int kPacks>() {
    short_forward_kernel<T, V, kPacks><<<blocks, kWarps * kWarp, 0, stream.native()>>>(args);
  };
  if (wide && is_aligned(args.weight.data, 16) && is_aligned(args.bias.data, 16) &&
      with_packs<V>(args.x.size[1], launch_short)) {
    check_launch(args.name);
    return;
  }
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
  constexpr unsigned kMaxBlocks = 264;  // two for each multiprocessor of the largest chips
  const bool wide = D % V == 0 && is_aligned(args.x.data, 16) && is_aligned(args.dy.data, 16) &&
                    is_aligned(args.dx.data, 16);
  auto* const dweight = reinterpret_cast<float*>(
      stream.scratch(static_cast<size_t>(kMaxBlocks) * 2 * D * sizeof(float)).data());
  float* const dbias = dweight + kMaxBlocks * D;
  unsigned blocks = std::min(kMaxBlocks, std::max(1u, blocks_for(N, kWarps)));
  const auto launch_short = [&]<int kPacks>() {
    short_backward_kernel<T, V, kPacks><<<blocks, kWarps * kWarp, 0, stream.native()>>>(args, dweight, dbias);
  };
  if (!wide || !is_aligned(args.weight.data, 16) || !with_packs<V>(D, launch_short)) {
    constexpr size_t kSharedBytes = 96 << 10;  // two blocks fit a multiprocessor
    const size_t bytes_per_warp = static_cast<size_t>(2 * D) * sizeof(float);
    HEADWAY_CHECK(
        bytes_per_warp <= 2 * kSharedBytes, ShapeError,
        "norm_backward: rows of " + std::to_string(D) + " values are wider than the GPU kernel can take");
    const int warps =
        static_cast<int>(std::clamp<size_t>(kSharedBytes / std::max<size_t>(bytes_per_warp, 1), 1, kWarps));
    const size_t shared = static_cast<size_t>(warps) * bytes_per_warp;
    blocks = std::min(kMaxBlocks, std::max(1u, blocks_for(N, warps)));
    const auto kernel = wide ? norm_backward_kernel<T, V> : norm_backward_kernel<T, 1>;
    check_cuda(
        cudaFuncSetAttribute(kernel, cudaFuncAttributeMaxDynamicSharedMemorySize, static_cast<int>(shared)),
        args.name);
    kernel<<<blocks, static_cast<unsigned>(warps) * kWarp, shared, stream.native()>>>(args, dweight, dbias);
  }
  check_launch(args.name);
  add_blocks(dweight, blocks, D, args.dweight.data, args.accumulate_weight, stream);
  if (args.dbias) add_blocks(dbias, blocks, D, args.dbias.data, args.accumulate_bias, stream);
}

HEADWAY_KERNEL(cuda, norm_forward<float>);
HEADWAY_KERNEL(cuda, norm_forward<bf16>);
HEADWAY_KERNEL(cuda, norm_backward<float>);
HEADWAY_KERNEL(cuda, norm_backward<bf16>);

}  // namespace
}  // namespace headway
