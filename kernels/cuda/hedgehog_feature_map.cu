// Tiles of 64 rows of a head go through the tensor cores and are mapped in their registers, so that x is read
// and y written once. A block stays with one head, whose matrix it keeps in shared memory, and asks for its
// next tile while it works on one. The gradient of the matrix is summed in registers over a block's tiles,
// then over blocks, each in a fixed order.
#include "kernels/ops/hedgehog_feature_map.h"

#include <cmath>

#include "kernels/cuda/add_blocks.h"
#include "kernels/cuda/base_2.cuh"
#include "kernels/cuda/tile/products.cuh"

namespace headway {
namespace {
using namespace cuda;

constexpr int kWidth = 64, kRows = 64;
using Tile = RowTile<kWidth, kRows>;
constexpr float kLog2E = 1.4426950408889634f;

/// Of one direction: x, and in backward the two halves of dy, in two stages; W; rows on their way out; du.
constexpr int kForwardTiles = 4, kForwardBytes = kForwardTiles * Tile::kBytes, kForwardBlocks = 4;
constexpr int kBackwardTiles = 9, kBackwardBytes = kBackwardTiles * Tile::kBytes, kBackwardBlocks = 3;

struct ForwardArgs {
  HedgehogFeatures features;
  View<const bf16, 4> x, weight;  // [1,N,H,Dh], [1,Df,H,Dh]
  View<bf16, 4> plus, minus;      // the halves of y, [1,N,H,Df]
};
struct BackwardArgs {
  HedgehogFeatures features;
  View<bf16, 4> dx;
  const bf16* x;  // rows as those of dx
  View<const bf16, 4> weight, dplus;
  const bf16* dminus;  // rows as those of dplus
  float* partial;      // [blocks of a head,H,Df,Dh]
};

__device__ unsigned load_shared_word(unsigned address) {
  unsigned value;
  asm volatile("ld.shared.b32 %0, [%1];" : "=r"(value) : "r"(address) : "memory");
  return value;
}

/// The tiles that a block takes in turn.
struct Tiles {
  int h, first, step, count;

  __device__ explicit Tiles(const View<const bf16, 4>& x)
      : h(static_cast<int>(blockIdx.x)),
        first(static_cast<int>(blockIdx.y)),
        step(static_cast<int>(gridDim.y)),
        count(static_cast<int>((x.size[1] + kRows - 1) / kRows)) {}
};

/// The rows of a tile as rows 0.. of a view, so that offsets within it stay small.
template <class E>
__device__ View<E, 4> rows_from(View<E, 4> all, int tile) {
  const int64_t first = static_cast<int64_t>(tile) * kRows;
  all.data += first * all.stride[1];
  all.size[1] -= first;
  return all;
}

/// u becomes the features of u, and minus those of -u, for this lane's two rows. kFull: Df is kWidth.
template <bool kFull>
__device__ void map_features(HedgehogFeatures features, int Df, Scores<kWidth>& u, Scores<kWidth>& minus) {
  const bool joint = features == HedgehogFeatures::joint;
  const float scale = joint ? 2 * kLog2E : kLog2E;
  float largest[2] = {-INFINITY, -INFINITY}, smallest[2] = {INFINITY, INFINITY};
  u.each([&](int i, int half, int column) {
    if (!kFull && column >= Df) return;
    largest[half] = fmaxf(largest[half], u[i]);
    smallest[half] = fminf(smallest[half], u[i]);
  });
  float shift[2], shift_negative[2], sum[2] = {}, sum_negative[2] = {};
#pragma unroll
  for (int half = 0; half < 2; ++half) {
    shift[half] = scale * quad_max(largest[half]);
    shift_negative[half] = scale * quad_max(-smallest[half]);
    if (joint) shift[half] = shift_negative[half] = fmaxf(shift[half], shift_negative[half]);
  }
  u.each([&](int i, int half, int column) {
    const float value = u[i];
    const bool exists = kFull || column < Df;
    sum[half] += u[i] = exists ? power_of_2(fmaf(scale, value, -shift[half])) : 0.0f;
    sum_negative[half] += minus[i] = exists ? power_of_2(fmaf(-scale, value, -shift_negative[half])) : 0.0f;
  });
  float factor[2], factor_negative[2];
#pragma unroll
  for (int half = 0; half < 2; ++half) {
    const float all = quad_sum(sum[half]), all_negative = quad_sum(sum_negative[half]);
    factor[half] = 1 / (joint ? all + all_negative : all);
    factor_negative[half] = joint ? factor[half] : 1 / all_negative;
  }
  u.each([&](int i, int half, int) {
    u[i] *= factor[half];
    minus[i] *= factor_negative[half];
  });
}

template <bool kFull>
__global__ void __launch_bounds__(kWarpgroup, kForwardBlocks) feature_map_forward_kernel(ForwardArgs a) {
  extern __shared__ __align__(1024) uint4 memory[];
  const auto tile = [&](int index) {
    return Tile{shared_address(memory) + static_cast<unsigned>(index * Tile::kBytes)};
  };
  const Tile weight = tile(2), out = tile(3);
  const Tiles tiles(a.x);
  const int Df = static_cast<int>(a.plus.size[3]);
  weight.load<kWarpgroup>(a.weight, 0, 0, tiles.h);
  tile(0).load<kWarpgroup>(rows_from(a.x, tiles.first), 0, 0, tiles.h);
  commit_copies();
  int stage = 0;
  for (int t = tiles.first; t < tiles.count; t += tiles.step, stage ^= 1) {
    const int now = uniform(stage);
    wait_for_stage();
    if (t + tiles.step < tiles.count)
      tile(now ^ 1).load<kWarpgroup>(rows_from(a.x, t + tiles.step), 0, 0, tiles.h);
    commit_copies();
    Scores<kWidth> features, minus;
    wgmma_fence();
    features.multiply(tile(now), 0, weight);
    wgmma_commit();
    wgmma_wait<0>();
    map_features<kFull>(a.features, Df, features, minus);
    const auto store = [&](const View<bf16, 4>& to, const Scores<kWidth>& values) {
      store_rows(rows_from(to, t), 0, 0, tiles.h, out, 0, [&](int n, int half) {
        return round_pair(values.values[n][2 * half], values.values[n][2 * half + 1]);
      });
    };
    store(a.plus, features);
    store(a.minus, minus);
  }
  wait_for_copies<0>();
}

template <bool kFull>
__global__ void __launch_bounds__(kWarpgroup, kBackwardBlocks) feature_map_backward_kernel(BackwardArgs a) {
  extern __shared__ __align__(1024) uint4 memory[];
  const auto tile = [&](int index) {
    return Tile{shared_address(memory) + static_cast<unsigned>(index * Tile::kBytes)};
  };
  const Tile weight = tile(6), out = tile(7), du = tile(8);
  const Tiles tiles(a.dx);
  const int Df = static_cast<int>(a.dplus.size[3]), lane = static_cast<int>(threadIdx.x) % kWarp;
  const auto load = [&](int t, int stage) {
    View<const bf16, 4> x = rows_from(a.dx, t);
    x.data += a.x - a.dx.data;
    tile(3 * stage).template load<kWarpgroup>(x, 0, 0, tiles.h);
    View<const bf16, 4> half = rows_from(a.dplus, t);
    tile(3 * stage + 1).template load<kWarpgroup>(half, 0, 0, tiles.h);
    half.data += a.dminus - a.dplus.data;
    tile(3 * stage + 2).template load<kWarpgroup>(half, 0, 0, tiles.h);
  };
  const bool joint = a.features == HedgehogFeatures::joint;
  const float scale = joint ? 2.0f : 1.0f;
  weight.load<kWarpgroup>(a.weight, 0, 0, tiles.h);
  load(tiles.first, 0);
  commit_copies();
  Sums<kWidth> dweight;
  int stage = 0;
  for (int t = tiles.first; t < tiles.count; t += tiles.step, stage ^= 1) {
    const int now = uniform(stage);
    const Tile x = tile(3 * now), dplus = tile(3 * now + 1), dminus = tile(3 * now + 2);
    int own_row = rows_of_warp() + lane / 4;
    asm volatile("" : "+r"(own_row));  // else places in tiles are kept from turn to turn, and spilled
    /// This lane's pair of channels 8 n.. of a tile.
    const auto pair_at = [&](const Tile& from, int n, int half) {
      return from.at(own_row + half * 8, n) + static_cast<unsigned>(lane % 4 * 4);
    };
    wait_for_stage();
    if (t + tiles.step < tiles.count) load(t + tiles.step, now ^ 1);
    commit_copies();
    Scores<kWidth> plus, minus;
    wgmma_fence();
    plus.multiply(x, 0, weight);
    wgmma_commit();
    wgmma_wait<0>();
    map_features<kFull>(a.features, Df, plus, minus);
    float mean[2] = {}, mean_negative[2] = {};
    const auto each_pair = [&](auto use) {  // use(n, half, pair of dplus, pair of dminus)
#pragma unroll
      for (int n = 0; n < kWidth / 8; ++n)
#pragma unroll
        for (int half = 0; half < 2; ++half)
          use(n, half, unpack_pair(load_shared_word(pair_at(dplus, n, half))),
              unpack_pair(load_shared_word(pair_at(dminus, n, half))));
    };
    each_pair([&](int n, int half, float2 p, float2 m) {
      const int i = 4 * n + 2 * half;
      mean[half] += plus[i] * p.x + plus[i + 1] * p.y;
      mean_negative[half] += minus[i] * m.x + minus[i + 1] * m.y;
    });
#pragma unroll
    for (int half = 0; half < 2; ++half) {
      mean[half] = quad_sum(mean[half]);
      mean_negative[half] = quad_sum(mean_negative[half]);
      if (joint) mean[half] = mean_negative[half] = mean[half] + mean_negative[half];
    }
    each_pair([&](int n, int half, float2 p, float2 m) {
      const int i = 4 * n + 2 * half;
      plus[i] = scale * (plus[i] * (p.x - mean[half]) - minus[i] * (m.x - mean_negative[half]));
      plus[i + 1] = scale * (plus[i + 1] * (p.y - mean[half]) - minus[i + 1] * (m.y - mean_negative[half]));
    });
    const Weights<kWidth> left(plus);
#pragma unroll
    for (int k = 0; k < kWidth / 16; ++k)
#pragma unroll
      for (int r = 0; r < 4; ++r) store_shared(pair_at(du, 2 * k + r / 2, r % 2), left.values[k][r]);
    fence_async_proxy();
    __syncthreads();
    const Weights<kRows> of_channels = Weights<kRows>::of_channels(du);
    Sums<kWidth> dx;
    wgmma_fence();
    dx.add(left, weight);
    wgmma_commit();
    dweight.add(of_channels, x);
    wgmma_commit();
    wgmma_wait<0>();
    store_rows(rows_from(a.dx, t), 0, 0, tiles.h, out, 0,
               [&](int n, int half) { return dx.pair(n, half, 1); });
  }
  wait_for_copies<0>();
  const int64_t Dh = a.dx.size[3];
  float* const to = a.partial + (static_cast<int64_t>(blockIdx.y) * gridDim.x + tiles.h) * Df * Dh;
#pragma unroll
  for (int n = 0; n < kWidth / 8; ++n)
#pragma unroll
    for (int i = 0; i < 4; ++i) {
      const int row = rows_of_warp() + i / 2 * 8 + lane / 4, column = 8 * n + lane % 4 * 2 + i % 2;
      if (row < Df && column < Dh) to[row * Dh + column] = dweight.values[n][i];
    }
}

/// [N,H,width] from its channel `first` on, as rows of a single sequence.
template <class E>
View<E, 4> sequence(const View<E, 3>& x, int64_t first, int64_t width) {
  return {.data = x.data + first,
          .size = {1, x.size[0], x.size[1], width},
          .stride = {0, x.stride[0], x.stride[1], 1}};
}
/// W_h as the rows of head h.
View<const bf16, 4> matrices(const View<const bf16, 3>& weight) {
  return {.data = weight.data,
          .size = {1, weight.size[1], weight.size[0], weight.size[2]},
          .stride = {0, weight.stride[1], weight.stride[0], 1}};
}

/// Blocks of each head: as many as run at a time, which take the other tiles in turn.
template <class Kernel>
dim3 grid_of(Kernel kernel, int bytes, const View<const bf16, 3>& x, Stream& stream) {
  const auto heads = static_cast<unsigned>(x.size[1]), tiles = blocks_for(x.size[0], kRows);
  const unsigned resident = num_resident_blocks(kernel, kWarpgroup, static_cast<size_t>(bytes), stream);
  return {heads, std::clamp(resident / heads, 1u, std::max(tiles, 1u))};
}

template <class T>
void hedgehog_feature_map_forward(const HedgehogFeatureMapForward<T>& args, Stream& stream) {
  if (args.y.numel() == 0) return;
  const int64_t Df = args.weight.size[1];
  const auto kernel = Df == kWidth ? feature_map_forward_kernel<true> : feature_map_forward_kernel<false>;
  allow_shared(kernel, kForwardBytes, args.name);
  const dim3 grid = grid_of(kernel, kForwardBytes, args.x, stream);
  kernel<<<grid, kWarpgroup, kForwardBytes, stream.native()>>>(
      ForwardArgs{.features = args.features,
                  .x = sequence(args.x, 0, args.x.size[2]),
                  .weight = matrices(args.weight),
                  .plus = sequence(args.y, 0, Df),
                  .minus = sequence(args.y, Df, Df)});
  check_launch(args.name);
}

template <class T>
void hedgehog_feature_map_backward(const HedgehogFeatureMapBackward<T>& args, Stream& stream) {
  const int64_t Df = args.weight.size[1], numbers = args.weight.numel();
  if (numbers == 0) return;
  const auto kernel = Df == kWidth ? feature_map_backward_kernel<true> : feature_map_backward_kernel<false>;
  allow_shared(kernel, kBackwardBytes, args.name);
  const dim3 grid = grid_of(kernel, kBackwardBytes, args.x, stream);
  auto* const partial =
      reinterpret_cast<float*>(stream.scratch(grid.y * static_cast<size_t>(numbers) * sizeof(float)).data());
  kernel<<<grid, kWarpgroup, kBackwardBytes, stream.native()>>>(
      BackwardArgs{.features = args.features,
                   .dx = sequence(args.dx, 0, args.dx.size[2]),
                   .x = args.x.data,
                   .weight = matrices(args.weight),
                   .dplus = sequence(args.dy, 0, Df),
                   .dminus = args.dy.data + Df,
                   .partial = partial});
  check_launch(args.name);
  add_blocks(partial, grid.y, numbers, args.dweight.data, args.accumulate_weight, stream);
}

HEADWAY_KERNEL(cuda, hedgehog_feature_map_forward<bf16>);
HEADWAY_KERNEL(cuda, hedgehog_feature_map_backward<bf16>);

}  // namespace
}  // namespace headway
