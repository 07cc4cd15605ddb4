// Softmax of rows whose scores lie in the registers of a Hopper warpgroup, key tile after key tile, and which
// keys they see. Of 64 x 128 scores a lane has rows l/4 and l/4 + 8 of its warp's 16, columns 2 (l%4) and the
// next of each 8: score 4 g + 2 half + e is column 8 g + e from there.
#pragma once

#include "kernels/attention/plan.h"
#include "kernels/cuda/base_2.cuh"
#include "kernels/cuda/tile/products.cuh"

namespace headway::cuda::hopper {

inline constexpr int kKeys = 128;  // of a tile
/// The largest score of a row that has seen no key: finite, so that differences are numbers.
inline constexpr float kLowest = -1e30f;

/// Key tiles of some rows, both ends inclusive: one at least, which may hold no visible pair.
struct TileRange {
  int first, last;
};

/// Of the rows q0..q1, which exist.
template <class M>
__device__ TileRange key_tiles_of(const TilePlan<M>& plan, int q0, int q1) {
  const IndexRange keys = plan.keys_of(q0, q1);
  const int first = keys.first / kKeys;
  return {first, max(first, (keys.last - 1) / kKeys)};
}
/// The tile that the rows q0..q1 visit before this one, going down to `first`.
template <class M>
__device__ int tile_before(const TilePlan<M>& plan, int q0, int q1, int tile, int first) {
  --tile;
  if constexpr (M::intervals > 1)
    while (tile > first && !plan.visits(q0, q1, tile * kKeys, tile * kKeys + kKeys - 1)) --tile;
  return tile;
}

/// What the 64 rows of a warpgroup see of their block's key tiles. One thread finds it ahead of time.
struct alignas(16) SeenTiles {
  TileRange any;    // tiles that hold a visible pair
  TileRange whole;  // those that need no test per pair, of one interval; may be empty

  /// own0, own1: the first and the last of the rows. Where none exists, or none sees a key, any tile does.
  template <class M>
  __device__ static SeenTiles of(const TilePlan<M>& plan, int own0, int own1, bool exist,
                                 const TileRange& of_block) {
    const IndexRange keys = plan.keys_of(own0, own1);
    SeenTiles seen;
    seen.any = {keys.first / kKeys, (keys.last - 1) / kKeys};
    if (!exist || keys.last <= keys.first) seen.any = {of_block.first, of_block.first};
    seen.whole = {(plan.begin(own1, 0) + kKeys - 1) / kKeys, plan.end(own0, 0) / kKeys - 1};
    return seen;
  }
  /// Of 64 successive rows, q0 the first.
  template <class M>
  __device__ static SeenTiles of(const TilePlan<M>& plan, int q0, const TileRange& of_block) {
    const int last_row = plan.num_queries - 1;
    return of(plan, min(q0, last_row), min(q0 + 63, last_row), q0 <= last_row, of_block);
  }
  template <class M>
  __device__ bool is_whole(const TilePlan<M>& plan, int q0, int tile) const {
    if constexpr (M::intervals > 1) {
      const int last_row = plan.num_queries - 1, key = tile * kKeys;
      return plan.is_whole(min(q0, last_row), min(q0 + 63, last_row), key, key + kKeys - 1);
    }
    return whole.first <= tile && tile <= whole.last;
  }
};

/// Bits of those of a lane's columns that are less than n: bit 2 g + e is column 8 g + e.
__device__ inline unsigned columns_below(int n) {
  n = min(max(n, 0), kKeys);
  return static_cast<unsigned>((uint64_t{1} << (2 * (n >> 3) + min(n & 7, 2))) - 1);
}
/// Scores of pairs that are not seen become -inf. rows: the lane's two.
template <int kColumns, class M>
__device__ void mask_scores(float (&scores)[64], const TilePlan<M>& plan, const int (&rows)[2], int tile) {
  const int column = tile * kKeys + 2 * static_cast<int>(threadIdx.x % 4);
#pragma unroll
  for (int half = 0; half < 2; ++half) {
    const int t = min(rows[half], plan.num_queries - 1);
    unsigned seen = 0;
#pragma unroll
    for (int n = 0; n < M::intervals; ++n)
      seen |= columns_below(plan.end(t, n) - column) & ~columns_below(plan.begin(t, n) - column);
#pragma unroll
    for (int i = 0; i < kColumns / 4; ++i)
      if (!(seen >> i & 1)) scores[i / 2 * 4 + 2 * half + i % 2] = -INFINITY;
  }
}

/// The running softmax of a lane's two rows. The largest score may lag behind by 8 in the exponent of 2,
/// which bf16 and fp32 have room for: sums are rarely scaled then (FlashAttention-4's rule).
struct RunningSoftmax {
  float largest[2];  // of the scores as the product gives them
  float total[2];    // this lane's part

  /// Weights in place of scores, for the first tile: the first kColumns of 128, zeros for the others. power:
  /// exponents of 2 are that many times a score. lowest: what the largest score is at least.
  template <int kColumns>
  __device__ void begin(float (&scores)[64], float power, float lowest) {
    float top[2];
    lane_largest<kColumns>(scores, top);
#pragma unroll
    for (int half = 0; half < 2; ++half) {
      largest[half] = fmaxf(lowest, quad_max(top[half]));
      total[half] = 0;
    }
    weigh<kColumns>(scores, power);
#pragma unroll
    for (int i = kColumns / 2; i < 64; ++i) scores[i] = 0;
  }
  /// The same for a later tile of 128. Returns whether sums before it must be scaled by the factors: the same
  /// for the whole warp. limit: 8 / power.
  __device__ bool add(float (&scores)[64], float power, float limit, float (&factor)[2]) {
    float top[2];
    lane_largest<128>(scores, top);
    const bool moves = __any_sync(0xffffffffu, fmaxf(top[0] - largest[0], top[1] - largest[1]) > limit);
    if (moves) {
#pragma unroll
      for (int half = 0; half < 2; ++half) {
        const float next = fmaxf(largest[half], quad_max(top[half]));
        factor[half] = power_of_2((largest[half] - next) * power);
        largest[half] = next;
        total[half] *= factor[half];
      }
    }
    weigh<128>(scores, power);
    return moves;
  }

 private:
  template <int kColumns>
  __device__ static void lane_largest(const float (&scores)[64], float (&top)[2]) {
    float even[2] = {scores[0], scores[2]}, odd[2] = {scores[1], scores[3]};
#pragma unroll
    for (int i = 4; i < kColumns / 2; i += 4)
#pragma unroll
      for (int half = 0; half < 2; ++half) {
        even[half] = fmaxf(even[half], scores[i + 2 * half]);
        odd[half] = fmaxf(odd[half], scores[i + 2 * half + 1]);
      }
    top[0] = fmaxf(even[0], odd[0]), top[1] = fmaxf(even[1], odd[1]);
  }
  template <int kColumns>
  __device__ void weigh(float (&scores)[64], float power) {
    const float offset[2] = {largest[0] * power, largest[1] * power};
    float sums[4] = {};
#pragma unroll
    for (int i = 0; i < kColumns / 2; ++i) {
      scores[i] = power_of_2(fmaf(scores[i], power, -offset[i / 2 % 2]));
      sums[i % 4] += scores[i];
    }
    total[0] += sums[0] + sums[1], total[1] += sums[2] + sums[3];
  }
};

/// Weights, rounded, as left operands.
__device__ inline void round_weights(const float (&scores)[64], unsigned (&weights)[8][4]) {
#pragma unroll
  for (int i = 0; i < 32; ++i) weights[i / 4][i % 4] = round_pair(scores[2 * i], scores[2 * i + 1]);
}

template <int N>
__device__ void scale_rows(float (&sums)[N], const float (&factor)[2]) {
#pragma unroll
  for (int i = 0; i < N; ++i) sums[i] *= factor[i / 2 % 2];
}

}  // namespace headway::cuda::hopper
