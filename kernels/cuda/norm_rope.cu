// A row is one head of one token. A few lanes share it: each has the pairs (i, i + R/2) of V neighbouring i,
// and behind R the channels i + R/2 alone, so that pairs turn within a lane and only the sum of squares is
// shared.
#include "kernels/ops/norm_rope.h"

#include "kernels/cuda/add_blocks.h"
#include "kernels/cuda/rows.cuh"
#include "kernels/cuda/turn.cuh"

namespace headway {
namespace {
using namespace cuda;

constexpr int kThreads = 128;

/// Sum over the lanes of a row, in each of them. Every lane of the warp takes part.
__device__ float lanes_sum(float x) {
  for (int offset = blockDim.x / 2; offset > 0; offset /= 2) x += __shfl_xor_sync(0xffffffffu, x, offset);
  return x;
}

/// The first of a lane's channels in its pack p.
template <int V>
__device__ int64_t channel(int p) {
  return (p * blockDim.x + threadIdx.x) * V;
}

/// What a lane has of a row: packs of V channels, `low` the first of each pair and `high` the second.
template <class T, int V, int P>
struct Share {
  Packed<T, V> low[P], high[P];

  __device__ void read(const T* row, int64_t half, int64_t Dh) {
#pragma unroll
    for (int p = 0; p < P; ++p) {
      const int64_t i = channel<V>(p);
      if (i < half) low[p].read(row + i);
      if (i < Dh - half) high[p].read(row + half + i);
    }
  }
};

/// The angles of a row's token; null without rotation. 32-bit divisions: 64-bit ones take longer than all
/// else.
template <class Args>
__device__ const float* angles_of(const Args& a, unsigned row) {
  const unsigned half = static_cast<unsigned>(a.table.size[1]);
  if (half == 0) return nullptr;
  const unsigned token = row / static_cast<unsigned>(a.x.size[2]) % static_cast<unsigned>(a.x.size[1]);
  return a.table.data + static_cast<int64_t>(token) * half * 2;
}

template <int V>
__device__ void turn_by(const float* angles, float (&u)[V], float (&w)[V], bool inverse) {
  float angle[2 * V];
  load(angles, angle);
  turn(u, w, angle, inverse);
}

/// A lane's channels of the weight, zero where it has none.
template <int V, int P>
struct Weights {
  float low[P][V] = {}, high[P][V] = {};

  __device__ Weights(const float* weight, int64_t half, int64_t Dh) {
#pragma unroll
    for (int p = 0; p < P; ++p) {
      const int64_t i = channel<V>(p);
      if (i < half) load(weight + i, low[p]);
      if (i < Dh - half) load(weight + half + i, high[p]);
    }
  }
};

template <class T, int V, int P>
__global__ void __launch_bounds__(kThreads) norm_rope_forward_kernel(NormRopeForward<T> a) {
  const int64_t N = a.inverse.size[0], Dh = a.x.size[3], half = a.table.size[1];
  const int64_t step = static_cast<int64_t>(gridDim.x) * blockDim.y;
  const Weights<V, P> weight(a.weight.data, half, Dh);
  Share<T, V, P> next;
  int64_t row = static_cast<int64_t>(blockIdx.x) * blockDim.y + threadIdx.y;
  if (row < N) next.read(a.x.data + row * Dh, half, Dh);
  // All lanes of a warp go on as long as one of them has a row.
  const int64_t row_of_warp = threadIdx.y % (kWarp / blockDim.x);
  for (; row - row_of_warp < N; row += step) {
    const Share<T, V, P> x = next;
    if (row + step < N) next.read(a.x.data + (row + step) * Dh, half, Dh);
    float squares = 0;
#pragma unroll
    for (int p = 0; p < P; ++p) {
      float u[V], w[V];
      x.low[p].unpack(u);
      x.high[p].unpack(w);
#pragma unroll
      for (int v = 0; v < V; ++v) squares += u[v] * u[v] + w[v] * w[v];
    }
    const float inverse = rsqrtf(lanes_sum(squares) / static_cast<float>(Dh) + static_cast<float>(a.eps));
    if (row >= N) continue;
    if (threadIdx.x == 0) a.inverse.data[row] = inverse;
    T* const y = a.y.data + row * Dh;
    const float* const angles = angles_of(a, static_cast<unsigned>(row));
#pragma unroll
    for (int p = 0; p < P; ++p) {
      const int64_t i = channel<V>(p);
      if (i >= Dh - half) continue;
      float u[V], w[V];
      x.low[p].unpack(u);
      x.high[p].unpack(w);
#pragma unroll
      for (int v = 0; v < V; ++v) {
        u[v] *= inverse * weight.low[p][v];
        w[v] *= inverse * weight.high[p][v];
      }
      if (i < half) {
        turn_by(angles + 2 * i, u, w, false);
        store(y + i, u);
      }
      store(y + half + i, w);
    }
  }
}

/// dweight [blocks, Dh]: sums over the rows of a block.
template <class T, int V, int P>
__global__ void __launch_bounds__(kThreads)
    norm_rope_backward_kernel(NormRopeBackward<T> a, float* dweight_of_blocks) {
  extern __shared__ float sums[];  // [warps, Dh]
  let_next_kernel_begin();         // add_blocks may be placed as blocks of this kernel end
  const int64_t N = a.inverse.size[0], Dh = a.x.size[3], half = a.table.size[1];
  const Weights<V, P> weight(a.weight.data, half, Dh);
  float dlow[P][V] = {}, dhigh[P][V] = {};  // of the weight
  // All lanes of a warp go on as long as one of them has a row.
  const int64_t row_of_warp = threadIdx.y % (kWarp / blockDim.x);
  for (int64_t row = static_cast<int64_t>(blockIdx.x) * blockDim.y + threadIdx.y; row - row_of_warp < N;
       row += static_cast<int64_t>(gridDim.x) * blockDim.y) {
    const bool inside = row < N;
    Share<T, V, P> x, dy;
    float inverse = 0;
    if (inside) {
      x.read(a.x.data + row * Dh, half, Dh);
      dy.read(a.dy.data + row * Dh, half, Dh);
      inverse = a.inverse.data[row];
    }
    const float* const angles = angles_of(a, static_cast<unsigned>(row));
    float gu[P][V], gw[P][V], product = 0;  // g * weight
#pragma unroll
    for (int p = 0; p < P; ++p) {
      const int64_t i = channel<V>(p);
      float u[V], w[V];
      dy.low[p].unpack(gu[p]);
      dy.high[p].unpack(gw[p]);
      if (inside && i < half) turn_by(angles + 2 * i, gu[p], gw[p], true);
      x.low[p].unpack(u);
      x.high[p].unpack(w);
#pragma unroll
      for (int v = 0; v < V; ++v) {
        dlow[p][v] += gu[p][v] * (u[v] * inverse);
        dhigh[p][v] += gw[p][v] * (w[v] * inverse);
        gu[p][v] *= weight.low[p][v];
        gw[p][v] *= weight.high[p][v];
        product += gu[p][v] * u[v] + gw[p][v] * w[v];
      }
    }
    const float slope = lanes_sum(product) / static_cast<float>(Dh) * inverse * inverse;
    if (!inside) continue;
    T* const dx = a.dx.data + row * Dh;
#pragma unroll
    for (int p = 0; p < P; ++p) {
      const int64_t i = channel<V>(p);
      if (i >= Dh - half) continue;
      float u[V], w[V];
      x.low[p].unpack(u);
      x.high[p].unpack(w);
#pragma unroll
      for (int v = 0; v < V; ++v) {
        u[v] = inverse * (gu[p][v] - u[v] * slope);
        w[v] = inverse * (gw[p][v] - w[v] * slope);
      }
      if (i < half) store(dx + i, u);
      store(dx + half + i, w);
    }
  }
  // Over the rows of a warp, then over the warps.
  const int thread = threadIdx.y * blockDim.x + threadIdx.x, warp = thread / kWarp;
  const auto put = [&](float sum, int64_t d, bool has) {
    for (int offset = blockDim.x; offset < kWarp; offset *= 2)
      sum += __shfl_xor_sync(0xffffffffu, sum, offset);
    if (has && thread % kWarp < blockDim.x) sums[warp * Dh + d] = sum;
  };
#pragma unroll
  for (int p = 0; p < P; ++p) {
    const int64_t i = channel<V>(p);
#pragma unroll
    for (int v = 0; v < V; ++v) {
      put(dlow[p][v], i + v, i < half);
      put(dhigh[p][v], half + i + v, i < Dh - half);
    }
  }
  __syncthreads();
  for (int64_t d = thread; d < Dh; d += kThreads) {
    float sum = 0;
#pragma unroll
    for (int w = 0; w < kThreads / kWarp; ++w) sum += sums[w * Dh + d];
    dweight_of_blocks[blockIdx.x * Dh + d] = sum;
  }
}

/// Calls run(V, P, lanes of a row) with V and P as types: 16 bytes a pack where all is aligned so, else one
/// channel.
template <class T, class Args, class Run>
void with_packs(const Args& args, std::initializer_list<const void*> others, Run run) {
  constexpr int V = 16 / sizeof(T);
  const int64_t Dh = args.x.size[3], half = args.table.size[1];
  bool wide = Dh % V == 0 && half % V == 0 && is_aligned(args.x.data, 16) &&
              is_aligned(args.weight.data, 16) && is_aligned(args.table.data, 16);
  for (const void* const other : others) wide = wide && is_aligned(other, 16);
  HEADWAY_CHECK(args.inverse.size[0] < int64_t{1} << 31, ShapeError,
                std::string(args.name) + ": " + std::to_string(args.inverse.size[0]) +
                    " heads of tokens are more than the GPU kernel can take");
  const auto go = [&]<int kV, int P>() {
    const int64_t packs = (Dh - half + kV - 1) / kV;
    HEADWAY_CHECK(packs <= P * kWarp, ShapeError,
                  std::string(args.name) + ": a head of " + std::to_string(Dh) +
                      " channels is wider than the GPU kernel takes");
    unsigned lanes = 1;
    while (lanes * P < packs) lanes *= 2;
    run.template operator()<kV, P>(dim3(lanes, kThreads / lanes));
  };
  wide ? go.template operator()<V, sizeof(T) / 2>() : go.template operator()<1, 8>();
}

template <class T>
void norm_rope_forward(const NormRopeForward<T>& args, Stream& stream) {
  if (args.x.numel() == 0) return;
  with_packs<T>(args, {args.y.data}, [&]<int V, int P>(dim3 block) {
    const auto kernel = norm_rope_forward_kernel<T, V, P>;
    const unsigned blocks =
        std::min(blocks_for(args.inverse.size[0], block.y), num_resident_blocks(kernel, kThreads, 0, stream));
    kernel<<<blocks, block, 0, stream.native()>>>(args);
  });
  check_launch(args.name);
}

template <class T>
void norm_rope_backward(const NormRopeBackward<T>& args, Stream& stream) {
  const int64_t N = args.inverse.size[0], Dh = args.x.size[3];
  with_packs<T>(args, {args.dy.data, args.dx.data}, [&]<int V, int P>(dim3 block) {
    const auto kernel = norm_rope_backward_kernel<T, V, P>;
    const size_t shared = static_cast<size_t>(kThreads / kWarp * Dh) * sizeof(float);
    const unsigned blocks =
        std::clamp(blocks_for(N, block.y), 1u, num_resident_blocks(kernel, kThreads, shared, stream));
    auto* const partial =
        reinterpret_cast<float*>(stream.scratch(static_cast<size_t>(blocks) * Dh * sizeof(float)).data());
    kernel<<<blocks, block, shared, stream.native()>>>(args, partial);
    check_launch(args.name);
    add_blocks(partial, blocks, Dh, args.dweight.data, args.accumulate_weight, stream);
  });
}

HEADWAY_KERNEL(cuda, norm_rope_forward<float>);
HEADWAY_KERNEL(cuda, norm_rope_forward<bf16>);
HEADWAY_KERNEL(cuda, norm_rope_backward<float>);
HEADWAY_KERNEL(cuda, norm_rope_backward<bf16>);

}  // namespace
}  // namespace headway
