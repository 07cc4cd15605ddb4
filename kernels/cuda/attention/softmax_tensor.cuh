// Softmax attention in bf16 on the tensor cores, for every variant and slot, head dims up to 128. No atomics,
// so bits repeat; memory is O(T).
//
// A warp owns 16 or 32 rows of one side (queries forward and for dq, keys for dk and dv) and streams tiles of
// the other through two stages of shared memory. Products stay in registers: scores of one product, rounded,
// are the left operand of the next (FlashAttention-2, arXiv 2307.08691). Backward computes the scores twice,
// once for each side, instead of adding up dq by atomics in an order that changes.
#pragma once

#include <cmath>

#include "kernels/cuda/attention/score.cuh"
#include "kernels/cuda/attention/softmax_simple.cuh"
#include "kernels/cuda/mma.cuh"

namespace headway::cuda::tensor {

inline constexpr float kLog2E = 1.4426950408889634f;

/// 16-row slabs of scores against kColumns columns: sums[m] += own rows times the tile's rows.
template <int D, int M, int kColumns>
struct Scores {
  float values[M][kColumns / 8][4] = {};

  /// own(m, step) fills a left operand.
  template <class Own>
  __device__ void multiply(Own own, const RowTile<D>& tile) {
#pragma unroll
    for (int step = 0; step < D / 16; ++step) {
      unsigned a[M][4];
#pragma unroll
      for (int m = 0; m < M; ++m) own(a[m], m, step);
#pragma unroll
      for (int n = 0; n < kColumns / 16; ++n) {
        unsigned b[4];
        tile.rows_right(b, n * 16, step);
#pragma unroll
        for (int m = 0; m < M; ++m) {
          multiply_add(values[m][2 * n], a[m], b[0], b[1]);
          multiply_add(values[m][2 * n + 1], a[m], b[2], b[3]);
        }
      }
    }
  }
  /// f(value, m, row of 16 (0: l/4, 1: l/4 + 8), column) for each of this lane's values.
  template <class F>
  __device__ void each(F f) {
    const int column = 2 * (threadIdx.x % 4);
#pragma unroll
    for (int m = 0; m < M; ++m)
#pragma unroll
      for (int n = 0; n < kColumns / 8; ++n)
#pragma unroll
        for (int e = 0; e < 4; ++e) f(values[m][n][e], m, e >> 1, n * 8 + column + (e & 1));
  }
};

/// Rows of D channels that products are added to.
template <int D, int M>
struct Sums {
  float values[M][D / 8][4] = {};

  /// += weights, rounded, times the tile's rows
  template <int kColumns>
  __device__ void add(const Scores<D, M, kColumns>& weights, const RowTile<D>& tile) {
#pragma unroll
    for (int k = 0; k < kColumns / 16; ++k) {
      unsigned a[M][4];
#pragma unroll
      for (int m = 0; m < M; ++m)
#pragma unroll
        for (int half = 0; half < 2; ++half) {
          const float(&w)[4] = weights.values[m][2 * k + half];
          a[m][2 * half] = round_pair(w[0], w[1]);
          a[m][2 * half + 1] = round_pair(w[2], w[3]);
        }
#pragma unroll
      for (int pair = 0; pair < D / 16; ++pair) {
        unsigned b[4];
        tile.channels_right(b, k * 16, pair);
#pragma unroll
        for (int m = 0; m < M; ++m) {
          multiply_add(values[m][2 * pair], a[m], b[0], b[1]);
          multiply_add(values[m][2 * pair + 1], a[m], b[2], b[3]);
        }
      }
    }
  }
  __device__ void scale(int m, int half, float factor) {
#pragma unroll
    for (int n = 0; n < D / 8; ++n) values[m][n][2 * half] *= factor, values[m][n][2 * half + 1] *= factor;
  }
};

/// Writes f(first value, second value, n) of one row's pairs of channels to [Dh].
template <int D, class F>
__device__ void store_row(bf16* row, int64_t Dh, F f) {
  const int column = 2 * (threadIdx.x % 4);
#pragma unroll
  for (int n = 0; n < D / 8; ++n)
    if (n * 8 < Dh) *reinterpret_cast<unsigned*>(row + n * 8 + column) = f(n);
}

__device__ inline float quad_sum(float x) {
  x += __shfl_xor_sync(0xffffffffu, x, 1);
  return x + __shfl_xor_sync(0xffffffffu, x, 2);
}
__device__ inline float quad_max(float x) {
  x = fmaxf(x, __shfl_xor_sync(0xffffffffu, x, 1));
  return fmaxf(x, __shfl_xor_sync(0xffffffffu, x, 2));
}

/// Sizes of the forward kernel: a row bias needs a second set of sums.
template <class V, int D>
struct ForwardSizes {
  static constexpr int kSlabs = D == 64 && !has(V::slots, Slots::row_bias) ? 2 : 1;
  static constexpr int kRows = 128, kKeys = 64, kWarps = kRows / 16 / kSlabs, kThreads = kWarps * kWarp;
  static constexpr int kBytes = RowTile<D>::bytes(kRows + 4 * kKeys);
};

template <class V, int D>
__global__ void __launch_bounds__(ForwardSizes<V, D>::kThreads) forward_kernel(SoftmaxForward<V, bf16> a) {
  using Sizes = ForwardSizes<V, D>;
  constexpr int M = Sizes::kSlabs, kKeys = Sizes::kKeys, kThreads = Sizes::kThreads;
  constexpr bool kHasRowBias = has(V::slots, Slots::row_bias);
  extern __shared__ uint4 memory[];
  const unsigned base = shared_address(memory);
  const RowTile<D> queries{base};
  const auto stage_of = [&](int index) {
    return RowTile<D>{base + RowTile<D>::bytes(Sizes::kRows + index * kKeys)};
  };
  const Pairs<V, SoftmaxForward<V, bf16>> pairs(a, blockIdx.z, blockIdx.y);
  const int T = static_cast<int>(a.q.size[1]), Tk = static_cast<int>(a.k.size[1]);
  // Blocks with the most keys start first.
  const int first = static_cast<int>(gridDim.x - 1 - blockIdx.x) * Sizes::kRows;
  const int lane = threadIdx.x % kWarp, own = static_cast<int>(threadIdx.x / kWarp) * 16 * M;
  const auto row_of = [&](int m, int half) { return first + own + m * 16 + half * 8 + lane / 4; };
  const float scale = static_cast<float>(a.scale);

  const IndexRange range = pairs.plan.keys_of(first, min(first + Sizes::kRows, T) - 1);
  int tile = range.first / kKeys * kKeys;
  const auto load = [&](int keys_at, int stage) {
    stage_of(2 * stage).template load<kKeys, kThreads>(a.k, pairs.batch, keys_at, pairs.kv);
    stage_of(2 * stage + 1).template load<kKeys, kThreads>(a.v, pairs.batch, keys_at, pairs.kv);
  };
  queries.template load<Sizes::kRows, kThreads>(a.q, pairs.batch, first, pairs.head);
  if (tile < range.last) load(tile, 0);
  commit_copies();
  wait_for_copies<0>();
  __syncthreads();
  unsigned q[M][D / 16][4];
#pragma unroll
  for (int m = 0; m < M; ++m)
#pragma unroll
    for (int step = 0; step < D / 16; ++step) queries.left(q[m][step], own + m * 16, step);

  Sums<D, M> sums, visible;
  float largest[M][2], total[M][2] = {};
  bool computes[M][2];
#pragma unroll
  for (int m = 0; m < M; ++m)
#pragma unroll
    for (int half = 0; half < 2; ++half) {
      largest[m][half] = -INFINITY;
      if constexpr (has(V::slots, Slots::sink)) largest[m][half] = a.slots.sink(pairs.head);
      const int t = row_of(m, half);
      computes[m][half] = t < T && pairs.computes(t);
    }

  const int own_first = first + own, own_last = min(first + own + 16 * M, T) - 1;
  for (int stage = 0; tile < range.last; tile += kKeys, stage ^= 1) {
    if (tile + kKeys < range.last) load(tile + kKeys, stage ^ 1);
    commit_copies();
    wait_for_copies<1>();
    __syncthreads();
    if (own_first <= own_last && pairs.plan.visits(own_first, own_last, tile, tile + kKeys - 1)) {
      const RowTile<D> keys = stage_of(2 * stage), values = stage_of(2 * stage + 1);
      Scores<D, M, kKeys> scores;
      scores.multiply(
          [&](unsigned(&to)[4], int m, int step) {
#pragma unroll
            for (int i = 0; i < 4; ++i) to[i] = q[m][step][i];
          },
          keys);
      const bool whole = !has(V::slots, Slots::key_end | Slots::row_index) &&
                         pairs.plan.is_whole(own_first, own_last, tile, tile + kKeys - 1);
      [[maybe_unused]] Scores<D, M, kKeys> seen;
      if (whole) {
        scores.each([&](float& x, int m, int half, int column) {
          x = pairs.logit(x * scale, row_of(m, half), tile + column);
        });
        if constexpr (kHasRowBias) seen.each([](float& x, int, int, int) { x = 1; });
      } else {
        scores.each([&](float& x, int m, int half, int column) {
          const int t = row_of(m, half), j = tile + column;
          const bool sees = computes[m][half] && j < Tk && pairs.sees(t, j);
          x = sees ? pairs.logit(x * scale, t, j) : -INFINITY;
        });
        if constexpr (kHasRowBias)
          seen.each([&](float& x, int m, int half, int column) {
            const int t = row_of(m, half), j = tile + column;
            x = computes[m][half] && j < Tk && pairs.sees(t, j) ? 1.0f : 0.0f;
          });
      }
      float offset[M][2];
#pragma unroll
      for (int m = 0; m < M; ++m)
#pragma unroll
        for (int half = 0; half < 2; ++half) {
          float next = largest[m][half];
#pragma unroll
          for (int n = 0; n < kKeys / 8; ++n)
            next = fmaxf(next, fmaxf(scores.values[m][n][2 * half], scores.values[m][n][2 * half + 1]));
          next = quad_max(next);
          offset[m][half] = next == -INFINITY ? 0.0f : next * kLog2E;  // a row that has seen nothing
          const float factor = exp2f(largest[m][half] * kLog2E - offset[m][half]);
          largest[m][half] = next;
          total[m][half] *= factor;
          sums.scale(m, half, factor);
        }
      scores.each([&](float& x, int m, int half, int) {
        x = exp2f(x * kLog2E - offset[m][half]);
        total[m][half] += x;
      });
      sums.add(scores, values);
      if constexpr (kHasRowBias) visible.add(seen, values);
    }
    __syncthreads();  // the stage has been read
  }

#pragma unroll
  for (int m = 0; m < M; ++m)
#pragma unroll
    for (int half = 0; half < 2; ++half) {
      float sum = quad_sum(total[m][half]);
      const int t = row_of(m, half);
      if (t >= T) continue;
      if constexpr (has(V::slots, Slots::sink))
        sum += exp2f((a.slots.sink(pairs.head) - largest[m][half]) * kLog2E);
      // Zero is the sum of a row without keys; one that is no number stays so.
      const bool is_empty = sum == 0 || !computes[m][half];
      const float inverse = is_empty ? 0.0f : 1 / sum;
      const float row_scale = computes[m][half] ? pairs.row_scale(t) : 0.0f,
                  row_bias = computes[m][half] ? pairs.row_bias(t) : 0.0f;
      const auto y = [&](int n, int e) { return sums.values[m][n][2 * half + e] * inverse; };
      const auto o = [&](int n, int e) {
        if constexpr (kHasRowBias)
          return row_scale * y(n, e) + row_bias * visible.values[m][n][2 * half + e];
        else
          return row_scale * y(n, e);
      };
      store_row<D>(&a.o(pairs.batch, t, pairs.head, 0), a.q.size[3],
                   [&](int n) { return round_pair(o(n, 0), o(n, 1)); });
      if (kScalesRows<V> && a.y)
        store_row<D>(&a.y(pairs.batch, t, pairs.head, 0), a.q.size[3],
                     [&](int n) { return round_pair(y(n, 0), y(n, 1)); });
      if (lane % 4 == 0)
        a.log_sum_exp(pairs.batch, pairs.head, t) = is_empty ? -INFINITY : largest[m][half] + logf(sum);
    }
}

/// Sizes of both backward kernels.
template <int D>
struct BackwardSizes {
  static constexpr int kWarps = 4, kThreads = kWarps * kWarp;
  static constexpr int kOwn = kWarps * 16, kStreamed = 64;
  static constexpr int kTileBytes = RowTile<D>::bytes(2 * kOwn + 4 * kStreamed);
  static constexpr int kRowValues = 4;  // of a streamed query row: log-sum-exp, D_i, r_i, beta_i
  static constexpr int kKeyBytes = kTileBytes + 2 * kRowValues * kStreamed * static_cast<int>(sizeof(float));
};

/// Two tensors of the owned side as left operands, and two stages of two tensors of the streamed side.
/// kKeeps: operands stay in registers.
template <int D, bool kKeeps>
struct BackwardTiles {
  using Sizes = BackwardSizes<D>;
  unsigned base;
  unsigned kept[2][kKeeps ? D / 16 : 1][4];

  __device__ RowTile<D> owned(int which) const { return {base + RowTile<D>::bytes(which * Sizes::kOwn)}; }
  __device__ RowTile<D> streamed(int stage, int which) const {
    return {base + RowTile<D>::bytes(2 * Sizes::kOwn + (2 * stage + which) * Sizes::kStreamed)};
  }
  __device__ void keep(int own) {
    if constexpr (kKeeps)
#pragma unroll
      for (int which = 0; which < 2; ++which)
#pragma unroll
        for (int step = 0; step < D / 16; ++step) owned(which).left(kept[which][step], own, step);
  }
  __device__ void multiply(Scores<D, 1, Sizes::kStreamed>& scores, int which, int own, int stage) const {
    scores.multiply(
        [&](unsigned(&to)[4], int, int step) {
          if constexpr (kKeeps) {
#pragma unroll
            for (int i = 0; i < 4; ++i) to[i] = kept[which][step][i];
          } else {
            owned(which).left(to, own, step);
          }
        },
        streamed(stage, which));
  }
};

template <class V, int D>
__global__ void __launch_bounds__(BackwardSizes<D>::kThreads, D == 64 ? 3 : 2)
    query_kernel(SoftmaxBackward<V, bf16> a, const float* row_dots) {
  using Sizes = BackwardSizes<D>;
  constexpr int kKeys = Sizes::kStreamed, kThreads = Sizes::kThreads;
  extern __shared__ uint4 memory[];
  BackwardTiles<D, false> tiles{.base = shared_address(memory)};
  const Pairs<V, SoftmaxBackward<V, bf16>> pairs(a, blockIdx.z, blockIdx.y);
  const int T = static_cast<int>(a.q.size[1]), Tk = static_cast<int>(a.k.size[1]);
  const int first = static_cast<int>(gridDim.x - 1 - blockIdx.x) * Sizes::kOwn;
  const int lane = threadIdx.x % kWarp, own = static_cast<int>(threadIdx.x / kWarp) * 16;
  const auto row_of = [&](int half) { return first + own + half * 8 + lane / 4; };
  const float scale = static_cast<float>(a.scale);

  const IndexRange range = pairs.plan.keys_of(first, min(first + Sizes::kOwn, T) - 1);
  int tile = range.first / kKeys * kKeys;
  const auto load = [&](int keys_at, int stage) {
    tiles.streamed(stage, 0).template load<kKeys, kThreads>(a.k, pairs.batch, keys_at, pairs.kv);
    tiles.streamed(stage, 1).template load<kKeys, kThreads>(a.v, pairs.batch, keys_at, pairs.kv);
  };
  tiles.owned(0).template load<Sizes::kOwn, kThreads>(a.q, pairs.batch, first, pairs.head);
  tiles.owned(1).template load<Sizes::kOwn, kThreads>(a.dout, pairs.batch, first, pairs.head);
  if (tile < range.last) load(tile, 0);
  commit_copies();
  wait_for_copies<0>();
  __syncthreads();
  tiles.keep(own);

  float log_sum_exp[2], row_dot[2], row_scale[2], dbias[2] = {};
  bool computes[2];
#pragma unroll
  for (int half = 0; half < 2; ++half) {
    const int t = row_of(half);
    computes[half] = t < T && pairs.computes(t);
    log_sum_exp[half] = computes[half] ? a.log_sum_exp(pairs.batch, pairs.head, t) * kLog2E : 0.0f;
    row_dot[half] =
        computes[half] ? row_dots[(pairs.batch * a.q.size[2] + pairs.head) * a.q.size[1] + t] : 0.0f;
    row_scale[half] = computes[half] ? pairs.row_scale(t) : 0.0f;
  }
  Sums<D, 1> dq;
  const int own_first = first + own, own_last = min(first + own + 16, T) - 1;
  for (int stage = 0; tile < range.last; tile += kKeys, stage ^= 1) {
    if (tile + kKeys < range.last) load(tile + kKeys, stage ^ 1);
    commit_copies();
    wait_for_copies<1>();
    __syncthreads();
    if (own_first <= own_last && pairs.plan.visits(own_first, own_last, tile, tile + kKeys - 1)) {
      Scores<D, 1, kKeys> scores, dp;
      tiles.multiply(scores, 0, own, stage);
      tiles.multiply(dp, 1, own, stage);
      const bool whole = !has(V::slots, Slots::key_end | Slots::row_index) &&
                         pairs.plan.is_whole(own_first, own_last, tile, tile + kKeys - 1);
      const auto gradient = [&](float& x, float dp, int half, int column) {
        const int t = row_of(half), j = tile + column;
        const float raw = x * scale;
        const float weight = exp2f(pairs.logit(raw, t, j) * kLog2E - log_sum_exp[half]);
        x = weight * row_scale[half] * (dp - row_dot[half]) * pairs.slope(raw, t, j);
        dbias[half] += dp;
      };
      int index = 0;
      const auto dp_of = [&] { return dp.values[0][index / 4][index % 4]; };
      if (whole)
        scores.each([&](float& x, int, int half, int column) {
          gradient(x, dp_of(), half, column);
          ++index;
        });
      else
        scores.each([&](float& x, int, int half, int column) {
          const int t = row_of(half), j = tile + column;
          if (computes[half] && j < Tk && pairs.sees(t, j))
            gradient(x, dp_of(), half, column);
          else
            x = 0;
          ++index;
        });
      dq.add(scores, tiles.streamed(stage, 0));
    }
    __syncthreads();  // the stage has been read
  }
#pragma unroll
  for (int half = 0; half < 2; ++half) {
    const int t = row_of(half);
    const float sum = quad_sum(dbias[half]);
    if (t >= T) continue;
    store_row<D>(&a.dq(pairs.batch, t, pairs.head, 0), a.q.size[3], [&](int n) {
      return round_pair(scale * dq.values[0][n][2 * half], scale * dq.values[0][n][2 * half + 1]);
    });
    if (lane % 4 != 0) continue;
    if (a.drow_bias) a.drow_bias(pairs.batch, pairs.head, t) = sum;
    if (a.drow_scale) a.drow_scale(pairs.batch, pairs.head, t) = row_dot[half];
  }
}

template <class V, int D>
__global__ void __launch_bounds__(BackwardSizes<D>::kThreads, 2)
    key_kernel(SoftmaxBackward<V, bf16> a, const float* row_dots) {
  using Sizes = BackwardSizes<D>;
  constexpr int kQueries = Sizes::kStreamed, kThreads = Sizes::kThreads;
  extern __shared__ uint4 memory[];
  BackwardTiles<D, D == 64> tiles{.base = shared_address(memory)};
  float* const row_values = reinterpret_cast<float*>(memory) + Sizes::kTileBytes / sizeof(float);
  const int T = static_cast<int>(a.q.size[1]), Tk = static_cast<int>(a.k.size[1]);
  const int b = static_cast<int>(blockIdx.z), kv = static_cast<int>(blockIdx.y);
  const int group = static_cast<int>(a.q.size[2] / a.k.size[2]);
  const int first = static_cast<int>(blockIdx.x) * Sizes::kOwn;
  const int lane = threadIdx.x % kWarp, own = static_cast<int>(threadIdx.x / kWarp) * 16;
  const auto key_of = [&](int half) { return first + own + half * 8 + lane / 4; };
  const float scale = static_cast<float>(a.scale);
  tiles.owned(0).template load<Sizes::kOwn, kThreads>(a.k, b, first, kv);
  tiles.owned(1).template load<Sizes::kOwn, kThreads>(a.v, b, first, kv);
  commit_copies();
  wait_for_copies<0>();
  __syncthreads();
  tiles.keep(own);

  Sums<D, 1> dk, dv;
  float dkey_bias[2] = {};
  const int own_first = first + own, own_last = min(first + own + 16, Tk) - 1;
  for (int h = kv * group; h < (kv + 1) * group; ++h) {
    const Pairs<V, SoftmaxBackward<V, bf16>> pairs(a, b, h);
    const IndexRange range = pairs.plan.rows_of(first, min(first + Sizes::kOwn, Tk) - 1);
    const auto load = [&](int queries_at, int stage) {
      tiles.streamed(stage, 0).template load<kQueries, kThreads>(a.q, b, queries_at, h);
      tiles.streamed(stage, 1).template load<kQueries, kThreads>(a.dout, b, queries_at, h);
      for (int i = threadIdx.x; i < kQueries; i += kThreads) {
        const int t = queries_at + i;
        const bool computes = t < T && pairs.computes(t);
        float* const of_row = row_values + (stage * kQueries + i) * Sizes::kRowValues;
        // Weights of a row that is not computed are exp(-inf).
        of_row[0] = computes ? a.log_sum_exp(b, h, t) * kLog2E : INFINITY;
        of_row[1] = computes ? row_dots[(b * a.q.size[2] + h) * a.q.size[1] + t] : 0.0f;
        of_row[2] = computes ? pairs.row_scale(t) : 0.0f;
        of_row[3] = computes ? pairs.row_bias(t) : 0.0f;
      }
    };
    int tile = range.first / kQueries * kQueries;
    if (tile < range.last) load(tile, 0);
    commit_copies();
    for (int stage = 0; tile < range.last; tile += kQueries, stage ^= 1) {
      if (tile + kQueries < range.last) load(tile + kQueries, stage ^ 1);
      commit_copies();
      wait_for_copies<1>();
      __syncthreads();
      if (own_first <= own_last && pairs.plan.visits(tile, tile + kQueries - 1, own_first, own_last)) {
        Scores<D, 1, kQueries> scores, dp;
        tiles.multiply(scores, 0, own, stage);
        tiles.multiply(dp, 1, own, stage);
        const bool whole = !has(V::slots, Slots::key_end | Slots::row_index) &&
                           pairs.plan.is_whole(tile, tile + kQueries - 1, own_first, own_last) &&
                           own_last == own_first + 15;
        const float* const of_tile = row_values + stage * kQueries * Sizes::kRowValues;
        // dp becomes the score's gradient, and the score the weight of dv.
        int index = 0;
        const auto gradient = [&](float& x, float& dp, int half, int column) {
          const float* const of_row = of_tile + column * Sizes::kRowValues;
          const int t = tile + column, j = key_of(half);
          const float raw = x * scale;
          const float weight = exp2f(pairs.logit(raw, t, j) * kLog2E - of_row[0]);
          const float da = weight * of_row[2] * (dp - of_row[1]);
          dkey_bias[half] += da;
          dp = da * pairs.slope(raw, t, j);
          x = of_row[2] * weight + of_row[3];
        };
        if (whole)
          scores.each([&](float& x, int, int half, int column) {
            gradient(x, dp.values[0][index / 4][index % 4], half, column);
            ++index;
          });
        else
          scores.each([&](float& x, int, int half, int column) {
            float& of_pair = dp.values[0][index / 4][index % 4];
            const int t = tile + column, j = key_of(half);
            if (t < T && j < Tk && pairs.sees(t, j))
              gradient(x, of_pair, half, column);
            else
              x = of_pair = 0;
            ++index;
          });
        dk.add(dp, tiles.streamed(stage, 0));
        dv.add(scores, tiles.streamed(stage, 1));
      }
      __syncthreads();  // the stage has been read
    }
  }
#pragma unroll
  for (int half = 0; half < 2; ++half) {
    const int j = key_of(half);
    const float sum = quad_sum(dkey_bias[half]);
    if (j >= Tk) continue;
    store_row<D>(&a.dk(b, j, kv, 0), a.q.size[3], [&](int n) {
      return round_pair(scale * dk.values[0][n][2 * half], scale * dk.values[0][n][2 * half + 1]);
    });
    store_row<D>(&a.dv(b, j, kv, 0), a.q.size[3],
                 [&](int n) { return round_pair(dv.values[0][n][2 * half], dv.values[0][n][2 * half + 1]); });
    if (lane % 4 == 0 && a.dkey_bias) a.dkey_bias(b, kv, j) = sum;
  }
}

template <class... E>
bool can_move(const View<E, 4>&... rows) {
  return (simple::moves_in_packs<8>(rows) && ...);
}

inline dim3 grid_of(int64_t rows, int per_block, int64_t heads, int64_t batch) {
  return dim3(blocks_for(rows, per_block), static_cast<unsigned>(heads), static_cast<unsigned>(batch));
}

template <class V, int D>
void launch_forward(const SoftmaxForward<V, bf16>& args, Stream& stream) {
  using Sizes = ForwardSizes<V, D>;
  const auto& q = args.q.size;
  simple::allow_shared(forward_kernel<V, D>, Sizes::kBytes, args.name);
  forward_kernel<V, D>
      <<<grid_of(q[1], Sizes::kRows, q[2], q[0]), Sizes::kThreads, Sizes::kBytes, stream.native()>>>(args);
  check_launch(args.name);
}

template <class V>
void forward(const SoftmaxForward<V, bf16>& args, Stream& stream) {
  const auto& q = args.q.size;
  if (q[0] * q[1] * q[2] == 0) return;
  if (q[3] > 128 || !can_move(args.q, args.k, args.v, args.o) || (args.y && !can_move(args.y)))
    return simple::forward(args, stream);
  q[3] <= 64 ? launch_forward<V, 64>(args, stream) : launch_forward<V, 128>(args, stream);
}

template <class V, int D>
void launch_backward(const SoftmaxBackward<V, bf16>& args, const float* row_dots, Stream& stream) {
  using Sizes = BackwardSizes<D>;
  const auto &q = args.q.size, &k = args.k.size;
  simple::allow_shared(query_kernel<V, D>, Sizes::kTileBytes, args.name);
  simple::allow_shared(key_kernel<V, D>, Sizes::kKeyBytes, args.name);
  query_kernel<V, D>
      <<<grid_of(q[1], Sizes::kOwn, q[2], q[0]), Sizes::kThreads, Sizes::kTileBytes, stream.native()>>>(
          args, row_dots);
  key_kernel<V, D>
      <<<grid_of(k[1], Sizes::kOwn, k[2], q[0]), Sizes::kThreads, Sizes::kKeyBytes, stream.native()>>>(
          args, row_dots);
  check_launch(args.name);
}

template <class V>
void backward(const SoftmaxBackward<V, bf16>& args, Stream& stream) {
  const auto& q = args.q.size;
  if (q[0] * q[1] * q[2] == 0) return;
  if (q[3] > 128 || !can_move(args.q, args.k, args.v, args.dout, args.dq, args.dk, args.dv))
    return simple::backward(args, stream);
  const float* const row_dots = simple::prepare_backward(args, stream);
  q[3] <= 64 ? launch_backward<V, 64>(args, row_dots, stream)
             : launch_backward<V, 128>(args, row_dots, stream);
}

}  // namespace headway::cuda::tensor
