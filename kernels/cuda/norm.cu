// Rows of D values. Rows of up to 512 packs of 16 bytes are read once, by a block that holds them in
// registers; wider ones and those whose packs are not aligned take a warp each, which reads them again from
// the cache. The weight's gradient is summed in stages of fixed order: within a block, and by a second kernel
// over the blocks.
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
  const T* x = a.x.data + row * D;
  T* const y = a.y.data + row * D;
  const bool layer = a.kind == NormKind::layer;
  if (a.update) {  // a lane reads again only what it has written itself
    T* const sum = a.sum.data + row * D;
    for_columns<V>(D, lane, [&](int64_t d) {
      float values[V], updates[V];
      load(x + d, values);
      load(a.update.data + row * D + d, updates);
#pragma unroll
      for (int v = 0; v < V; ++v) values[v] += updates[v];
      store(sum + d, values);
    });
    x = sum;
  }
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
      if (a.added) {
        load(a.added.data + row * D + d, dys);
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

// Short rows: a block takes a few at a time, and a thread V neighbouring columns of each. A thread's part of
// the weight and of its gradient stays in its registers, and it asks for all its packs before it uses one.
constexpr int kForwardRows = 4, kMostThreads = 512;
// Backward needs 80 registers for three rows, or 128 for four and what dx is added to; so many threads of a
// multiprocessor get them.
template <bool kAdds>
constexpr int kBackwardRows = kAdds ? 4 : 3;
template <bool kAdds>
constexpr int kResidentThreads = kAdds ? 512 : 768;

/// Sums over the threads of a block, in every thread. Calls that follow each other need memory of their own.
template <int K>
__device__ void add_threads(float (&values)[K], float (&of_warp)[kMostThreads / kWarp][K]) {
#pragma unroll
  for (int k = 0; k < K; ++k) values[k] = warp_sum(values[k]);
  if (threadIdx.x % kWarp == 0)
#pragma unroll
    for (int k = 0; k < K; ++k) of_warp[threadIdx.x / kWarp][k] = values[k];
  __syncthreads();
#pragma unroll
  for (int k = 0; k < K; ++k) values[k] = of_warp[0][k];
  for (int w = 1; w < blockDim.x / kWarp; ++w)
#pragma unroll
    for (int k = 0; k < K; ++k) values[k] += of_warp[w][k];
}

template <class T, int V, NormKind kKind, bool kAdds>
__global__ void __launch_bounds__(kMostThreads) short_forward_kernel(NormForward<T> a) {
  __shared__ alignas(16) float of_warp[2][kMostThreads / kWarp][kForwardRows];
  const int64_t D = a.x.size[1], d = threadIdx.x * V, first = static_cast<int64_t>(blockIdx.x) * kForwardRows;
  const int rows = static_cast<int>(min(a.x.size[0] - first, int64_t{kForwardRows}));
  const bool inside = d < D;
  Packed<T, V> packs[kForwardRows];
  float weight[V] = {}, bias[V] = {};
  if (inside) {
#pragma unroll
    for (int r = 0; r < kForwardRows; ++r)
      if (r < rows) packs[r].read(a.x.data + (first + r) * D + d);
    if constexpr (kAdds) {
      Packed<T, V> updates[kForwardRows];
#pragma unroll
      for (int r = 0; r < kForwardRows; ++r)
        if (r < rows) updates[r].read(a.update.data + (first + r) * D + d);
#pragma unroll
      for (int r = 0; r < kForwardRows; ++r) {
        float x[V], update[V];
        packs[r].unpack(x);
        updates[r].unpack(update);
#pragma unroll
        for (int v = 0; v < V; ++v) x[v] += update[v];
        packs[r].pack(x);
        if (r < rows) packs[r].write(a.sum.data + (first + r) * D + d);
      }
    }
    load(a.weight.data + d, weight);
    if (a.bias) load(a.bias.data + d, bias);
  }
  float mean[kForwardRows] = {}, inverse[kForwardRows] = {};
  if constexpr (kKind == NormKind::layer) {
#pragma unroll
    for (int r = 0; r < kForwardRows; ++r) {
      float x[V];
      packs[r].unpack(x);
#pragma unroll
      for (int v = 0; v < V; ++v) mean[r] += x[v];
    }
    add_threads(mean, of_warp[0]);
#pragma unroll
    for (int r = 0; r < kForwardRows; ++r) mean[r] /= static_cast<float>(D);
  }
  if (inside)
#pragma unroll
    for (int r = 0; r < kForwardRows; ++r) {
      float x[V];
      packs[r].unpack(x);
#pragma unroll
      for (int v = 0; v < V; ++v) inverse[r] += (x[v] - mean[r]) * (x[v] - mean[r]);
    }
  add_threads(inverse, of_warp[1]);
#pragma unroll
  for (int r = 0; r < kForwardRows; ++r) {
    inverse[r] = rsqrtf(inverse[r] / static_cast<float>(D) + static_cast<float>(a.eps));
    if (!inside || r >= rows) continue;
    float x[V];
    packs[r].unpack(x);
#pragma unroll
    for (int v = 0; v < V; ++v) x[v] = (x[v] - mean[r]) * inverse[r] * weight[v] + bias[v];
    store(a.y.data + (first + r) * D + d, x);
    if (threadIdx.x != 0) continue;
    a.inverse.data[first + r] = inverse[r];
    if (kKind == NormKind::layer) a.mean.data[first + r] = mean[r];
  }
}

/// dweight and dbias [blocks, D]: sums over the rows of a block.
template <class T, int V, NormKind kKind, bool kAdds>
__global__ void __launch_bounds__(kResidentThreads<kAdds>)
    short_backward_kernel(NormBackward<T> a, float* dweight_of_blocks, float* dbias_of_blocks) {
  constexpr bool kLayer = kKind == NormKind::layer;
  constexpr int kRows = kBackwardRows<kAdds>, kSums = kLayer ? 2 : 1;
  __shared__ alignas(16) float of_warp[2][kMostThreads / kWarp][kSums * kRows];
  let_next_kernel_begin();  // add_blocks may be placed as blocks of this kernel end
  const int64_t N = a.x.size[0], D = a.x.size[1], d = threadIdx.x * V;
  const bool inside = d < D;
  const float one_of_row = 1 / static_cast<float>(D);
  float weight[V] = {}, dweight[V] = {}, dbias[V] = {};
  if (inside) load(a.weight.data + d, weight);
  int turn = 0;
  for (int64_t first = static_cast<int64_t>(blockIdx.x) * kRows; first < N;
       first += static_cast<int64_t>(gridDim.x) * kRows) {
    const int rows = static_cast<int>(min(N - first, int64_t{kRows}));
    Packed<T, V> xs[kRows], dys[kRows], before[kAdds ? kRows : 1];
    float mean[kRows] = {}, inverse[kRows] = {};
#pragma unroll
    for (int r = 0; r < kRows; ++r) {
      if (!inside || r >= rows) continue;
      const int64_t at = (first + r) * D + d;
      xs[r].read(a.x.data + at);
      dys[r].read(a.dy.data + at);
      if constexpr (kAdds) before[r].read(a.added.data + at);
      inverse[r] = a.inverse.data[first + r];
      if (kLayer) mean[r] = a.mean.data[first + r];
    }
    float sums[kSums * kRows] = {};  // over a row of g (x - mean), then of g
#pragma unroll
    for (int r = 0; r < kRows; ++r) {
      float x[V], dy[V];
      xs[r].unpack(x);
      dys[r].unpack(dy);
#pragma unroll
      for (int v = 0; v < V; ++v) {
        const float product = dy[v] * (kLayer ? x[v] - mean[r] : x[v]);
        dweight[v] += product * inverse[r];
        dbias[v] += dy[v];
        sums[r] += product * weight[v];
        if constexpr (kLayer) sums[kRows + r] += dy[v] * weight[v];
      }
    }
    add_threads(sums, of_warp[turn]);
    turn ^= 1;
#pragma unroll
    for (int r = 0; r < kRows; ++r) {
      if (!inside || r >= rows) continue;
      const float slope = inverse[r] * inverse[r] * inverse[r] * sums[r] * one_of_row;
      const float shift = kLayer ? inverse[r] * sums[(kSums - 1) * kRows + r] * one_of_row : 0.0f;
      float x[V], dy[V], dx[V] = {};
      xs[r].unpack(x);
      dys[r].unpack(dy);
      if constexpr (kAdds) before[r].unpack(dx);
#pragma unroll
      for (int v = 0; v < V; ++v)
        dx[v] += dy[v] * weight[v] * inverse[r] - ((kLayer ? x[v] - mean[r] : x[v]) * slope + shift);
      store(a.dx.data + (first + r) * D + d, dx);
    }
  }
  if (!inside) return;
  store(dweight_of_blocks + blockIdx.x * D + d, dweight);
  store(dbias_of_blocks + blockIdx.x * D + d, dbias);
}

/// Threads of a block for short rows in packs of V, 0 for rows that are none.
template <int V>
unsigned threads_of_short_rows(int64_t D) {
  return D % V == 0 && D <= kMostThreads * V ? blocks_for(D, kWarp * V) * kWarp : 0;
}

template <class T>
void norm_forward(const NormForward<T>& args, Stream& stream) {
  if (args.x.numel() == 0) return;
  constexpr int V = 16 / sizeof(T);
  const unsigned blocks = blocks_for(args.x.size[0], kWarps);
  const bool wide = args.x.size[1] % V == 0 && is_aligned(args.x.data, 16) && is_aligned(args.y.data, 16) &&
                    is_aligned(args.update.data, 16) && is_aligned(args.sum.data, 16);
  const unsigned threads = threads_of_short_rows<V>(args.x.size[1]);
  if (wide && threads > 0 && is_aligned(args.weight.data, 16) && is_aligned(args.bias.data, 16)) {
    const auto launch_short = [&]<bool kAdds>() {
      const auto kernel = args.kind == NormKind::layer ? short_forward_kernel<T, V, NormKind::layer, kAdds>
                                                       : short_forward_kernel<T, V, NormKind::rms, kAdds>;
      kernel<<<blocks_for(args.x.size[0], kForwardRows), threads, 0, stream.native()>>>(args);
    };
    args.update ? launch_short.template operator()<true>() : launch_short.template operator()<false>();
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
  const unsigned multiprocessors = num_multiprocessors(stream);
  const bool wide = D % V == 0 && is_aligned(args.x.data, 16) && is_aligned(args.dy.data, 16) &&
                    is_aligned(args.dx.data, 16) && is_aligned(args.added.data, 16) &&
                    is_aligned(args.weight.data, 16);
  const unsigned threads = wide ? threads_of_short_rows<V>(D) : 0;
  const unsigned most_blocks = multiprocessors * (threads > 0 ? kResidentThreads<false> / threads : 2);
  auto* const dweight =
      reinterpret_cast<float*>(stream.scratch(size_t{most_blocks} * 2 * D * sizeof(float)).data());
  float* const dbias = dweight + most_blocks * D;
  unsigned blocks = 0;
  const auto launch_short = [&]<bool kAdds>() {
    blocks = std::clamp(blocks_for(N, kBackwardRows<kAdds>), 1u,
                        multiprocessors * (kResidentThreads<kAdds> / threads));
    const auto kernel = args.kind == NormKind::layer ? short_backward_kernel<T, V, NormKind::layer, kAdds>
                                                     : short_backward_kernel<T, V, NormKind::rms, kAdds>;
    kernel<<<blocks, threads, 0, stream.native()>>>(args, dweight, dbias);
  };
  if (threads > 0 && args.added) {
    launch_short.template operator()<true>();
  } else if (threads > 0) {
    launch_short.template operator()<false>();
  } else {
    constexpr size_t kSharedBytes = 96 << 10;  // two blocks fit a multiprocessor
    const size_t bytes_per_warp = static_cast<size_t>(2 * D) * sizeof(float);
    HEADWAY_CHECK(
        bytes_per_warp <= 2 * kSharedBytes, ShapeError,
        "norm_backward: rows of " + std::to_string(D) + " values are wider than the GPU kernel can take");
    const int warps =
        static_cast<int>(std::clamp<size_t>(kSharedBytes / std::max<size_t>(bytes_per_warp, 1), 1, kWarps));
    const size_t shared = static_cast<size_t>(warps) * bytes_per_warp;
    blocks = std::clamp(blocks_for(N, warps), 1u, most_blocks);
    const auto kernel = wide ? norm_backward_kernel<T, V> : norm_backward_kernel<T, 1>;
    check_cuda(
        cudaFuncSetAttribute(kernel, cudaFuncAttributeMaxDynamicSharedMemorySize, static_cast<int>(shared)),
        args.name);
    kernel<<<blocks, static_cast<unsigned>(warps) * kWarp, shared, stream.native()>>>(args, dweight, dbias);
  }
  check_launch(args.name);
  add_blocks(blocks, D, {dweight, args.dweight.data, args.accumulate_weight},
             {dbias, args.dbias.data, args.accumulate_bias}, stream);
}

HEADWAY_KERNEL(cuda, norm_forward<float>);
HEADWAY_KERNEL(cuda, norm_forward<bf16>);
HEADWAY_KERNEL(cuda, norm_backward<float>);
HEADWAY_KERNEL(cuda, norm_backward<bf16>);

}  // namespace
}  // namespace headway
