// Products of tiles in bf16 whose sums stay in registers, for a warpgroup: Hopper's (see wgmma.cuh), or by
// warp on other GPUs, where they are done when asked for. Sums have the same layout: see mma.cuh.
#pragma once

#include "kernels/cuda/tile/wgmma.cuh"

namespace headway::cuda {

/// The same in all lanes of a warp, as the compiler then knows: matrices of products are described in
/// registers of the warp.
__device__ inline int uniform(int x) { return __shfl_sync(0xffffffffu, x, 0); }

/// The first of the 64 rows that are the calling warpgroup's.
__device__ inline int rows_of_warpgroup() { return uniform(static_cast<int>(threadIdx.x / kWarpgroup)) * 64; }
/// The first of the 16 rows of a warpgroup's 64 that are the calling warp's.
__device__ inline int rows_of_warp() { return static_cast<int>(threadIdx.x % kWarpgroup / kWarp) * 16; }

/// Scores of 64 rows against kColumns columns.
template <int kColumns>
struct Scores {
  float values[kColumns / 8][4];

  /// = rows first.. of `own` times those of the tile; there when the group is committed and waited for.
  template <int D, int kOwn>
  __device__ void multiply(const RowTile<D, kOwn>& own, int first, const RowTile<D, kColumns>& tile) {
#ifdef HEADWAY_WGMMA
#pragma unroll
    for (int step = 0; step < D / 16; ++step)
      wgmma(in_a_row(values), matrix_of_rows(own, first, step), matrix_of_rows(tile, 0, step), step > 0);
#else
#pragma unroll
    for (int n = 0; n < kColumns / 8; ++n)
#pragma unroll
      for (float& x : values[n]) x = 0;
#pragma unroll
    for (int step = 0; step < D / 16; ++step) {
      unsigned a[4];
      own.left(a, first + rows_of_warp(), step);
#pragma unroll
      for (int n = 0; n < kColumns / 16; ++n) {
        unsigned b[4];
        tile.rows_right(b, n * 16, step);
        multiply_add(values[2 * n], a, b[0], b[1]);
        multiply_add(values[2 * n + 1], a, b[2], b[3]);
      }
    }
#endif
  }
  /// f(index, row of 16 (0: l/4, 1: l/4 + 8), column) for each of this lane's values.
  template <class F>
  __device__ static void each(F f) {
    const int column = 2 * (threadIdx.x % 4);
#pragma unroll
    for (int i = 0; i < kColumns / 2; ++i) f(i, i >> 1 & 1, i / 4 * 8 + column + (i & 1));
  }
  /// f(seen, index, row of 16, column); sees(row of 16, column) is asked unless all are.
  template <class Sees, class F>
  __device__ static void each(bool all_seen, Sees sees, F f) {
    if (all_seen)
      each([&](int i, int half, int column) { f(true, i, half, column); });
    else
      each([&](int i, int half, int column) { f(sees(half, column), i, half, column); });
  }
  __device__ float& operator[](int index) { return values[index / 4][index % 4]; }
};

/// Left operands of 64 rows and a depth of kColumns: scores, rounded, or what a tile has.
template <int kColumns>
struct Weights {
  unsigned values[kColumns / 16][4];

  Weights() = default;
  /// Rows first.. of a tile.
  template <int kRows>
  __device__ Weights(const RowTile<kColumns, kRows>& tile, int first) {
#pragma unroll
    for (int k = 0; k < kColumns / 16; ++k) tile.left(values[k], first + rows_of_warp(), k);
  }
  /// Each of a tile's 64 channels as a row.
  __device__ static Weights of_channels(const RowTile<64, kColumns>& tile) {
    Weights weights;
#pragma unroll
    for (int k = 0; k < kColumns / 16; ++k)
      tile.channels_left(weights.values[k], k * 16, rows_of_warp() / 16);
    return weights;
  }
  __device__ explicit Weights(const Scores<kColumns>& scores) {
#pragma unroll
    for (int k = 0; k < kColumns / 16; ++k)
#pragma unroll
      for (int half = 0; half < 2; ++half) {
        const float(&w)[4] = scores.values[2 * k + half];
        values[k][2 * half] = round_pair(w[0], w[1]);
        values[k][2 * half + 1] = round_pair(w[2], w[3]);
      }
  }
};

/// 64 rows of D channels that products are added to.
template <int D>
struct Sums {
  float values[D / 8][4] = {};

  /// += weights times the tile's rows
  template <int kColumns>
  __device__ void add(const Weights<kColumns>& weights, const RowTile<D, kColumns>& tile) {
#pragma unroll
    for (int k = 0; k < kColumns / 16; ++k) {
#ifdef HEADWAY_WGMMA
      wgmma(in_a_row(values), weights.values[k], matrix_of_channels(tile, k * 16), true);
#else
#pragma unroll
      for (int pair = 0; pair < D / 16; ++pair) {
        unsigned b[4];
        tile.channels_right(b, k * 16, pair);
        multiply_add(values[2 * pair], weights.values[k], b[0], b[1]);
        multiply_add(values[2 * pair + 1], weights.values[k], b[2], b[3]);
      }
#endif
    }
  }
  /// This lane's channels of 8 n.. of one row times the factor, rounded.
  __device__ unsigned pair(int n, int half, float factor) const {
    return round_pair(factor * values[n][2 * half], factor * values[n][2 * half + 1]);
  }
  __device__ void scale(int half, float factor) {
#pragma unroll
    for (int n = 0; n < D / 8; ++n) values[n][2 * half] *= factor, values[n][2 * half + 1] *= factor;
  }
};

/// Rows first + own.. of 64 of `to`, through the rows own.. of a tile that the warpgroup's products have
/// read: a lane has pairs of channels, and 16 bytes move faster. f(n, half): channels 8 n.. of this lane's
/// row.
template <int D, int kRows, class F>
__device__ void store_rows(const View<bf16, 4>& to, int b, int first, int h, const RowTile<D, kRows>& tile,
                           int own, F f) {
  constexpr int kPieces = D / 8, kAtOnce = kWarp / kPieces;
  const int lane = static_cast<int>(threadIdx.x) % kWarp, warp_row = own + rows_of_warp();
#pragma unroll
  for (int half = 0; half < 2; ++half)
#pragma unroll
    for (int n = 0; n < kPieces; ++n)
      store_shared(tile.at(warp_row + half * 8 + lane / 4, n) + lane % 4 * 4, f(n, half));
  __syncwarp();
  const int piece = lane % kPieces;
  const int rows_left = piece * 8 < to.size[3] ? static_cast<int>(to.size[1]) - first - warp_row : 0;
#pragma unroll
  for (int row = lane / kPieces; row < 16; row += kAtOnce)
    if (row < rows_left)
      *reinterpret_cast<uint4*>(&to(b, first + warp_row + row, h, piece * 8)) =
          load_shared(tile.at(warp_row + row, piece));
  __syncwarp();
}

/// Until the stage that was asked for is there for products, and every thread has read the other.
__device__ inline void wait_for_stage() {
  wait_for_copies<0>();
  fence_async_proxy();
  __syncthreads();
}

__device__ inline float quad_sum(float x) {
  x += __shfl_xor_sync(0xffffffffu, x, 1);
  return x + __shfl_xor_sync(0xffffffffu, x, 2);
}
__device__ inline float quad_max(float x) {
  x = fmaxf(x, __shfl_xor_sync(0xffffffffu, x, 1));
  return fmaxf(x, __shfl_xor_sync(0xffffffffu, x, 2));
}

}  // namespace headway::cuda
