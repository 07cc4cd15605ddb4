// Softmax attention in bf16 on the tensor cores, for every variant and slot, with up to 128 channels of keys
// and of values, which take tiles of the wider of the two. No atomics, so bits repeat; memory is O(T).
//
// A warpgroup owns 64 rows of one side (queries forward and for dq, keys for dk and dv) and streams tiles of
// the other through two stages of shared memory. Products stay in registers: scores of one product, rounded,
// are the left operand of the next (FlashAttention-2, arXiv 2307.08691). Backward computes the scores twice,
// once for each side, instead of adding up dq by atomics in an order that changes. Products are Hopper's by
// warpgroup (FlashAttention-3, arXiv 2407.08608), or by warp on other GPUs, whose sums have the same layout.
#pragma once

#include <cmath>

#include "kernels/cuda/attention/score.cuh"
#include "kernels/cuda/attention/softmax_simple.cuh"
#include "kernels/cuda/base_2.cuh"
#include "kernels/cuda/tile/products.cuh"

namespace headway::cuda::tensor {

/// Whether a logit is the scaled product itself, so that one multiplication makes it a power of two's
/// exponent.
template <class V>
inline constexpr bool kLogitIsScore =
    HasLogSumExp<V> && !has(V::slots, Slots::key_bias) && kHasDefaultScore<V>;

struct FastExp {
  __device__ float operator()(float x) const { return power_of_2(x * kLog2E); }
};
/// What backward takes of a row: a softmax's log-sum-exp times log2 e, else row_norm.
template <class V>
__device__ float row_norm_in_base_2(float log_sum_exp) {
  return HasLogSumExp<V> ? log_sum_exp * kLog2E : row_norm<V>(log_sum_exp, FastExp{});
}

/// What the slots say of the keys of a streamed tile: asked for with it, shown to all threads before it is
/// waited for, in one of two stages. Empty where a variant has no such slots.
template <class V, int kKeys>
struct StreamedKeys {
  KeySlots (&stages)[2][kKeys];  // in shared memory
  KeySlots next = {};

  template <class Pairs>
  __device__ void read(const Pairs& pairs, int first) {
    if constexpr (kHasKeySlots<V>)
      if (threadIdx.x < kKeys) next = pairs.key(first + static_cast<int>(threadIdx.x));
  }
  __device__ void show(int stage) const {
    if constexpr (kHasKeySlots<V>)
      if (threadIdx.x < kKeys) stages[stage][threadIdx.x] = next;
  }
  __device__ KeySlots at(int stage, int column) const {
    if constexpr (kHasKeySlots<V>) return stages[stage][column];
    return {};
  }
};

/// What the rows of a tile of scores are: keys in the kernel that owns keys.
enum class TileRows { queries, keys };

/// Which of a lane's weights of a tile dropout keeps, in the order of Scores; nothing without dropout.
template <class V, int kColumns, TileRows kRows>
struct KeptWeights {
  template <class Pairs>
  __device__ KeptWeights(const Pairs&, int, int) {}
  __device__ float apply(int, float weight) const { return weight; }
};
template <class V, int kColumns, TileRows kRows>
requires V::drops_weights struct KeptWeights<V, kColumns, kRows> {
  unsigned bits[kColumns / 64] = {};
  float scale;

  /// row: the lane's first, whose other is 8 behind; first_column: of the tile. Tiles begin at multiples
  /// of 16.
  template <class Pairs>
  __device__ KeptWeights(const Pairs& pairs, int row, int first_column)
      : scale(pairs.args.params.dropout.scale) {
    const WeightDropout& dropout = pairs.args.params.dropout;
#pragma unroll
    for (int n = 0; n < kColumns / 8; n += 2)
#pragma unroll
      for (int next = 0; next < 2; ++next) {
        const int column = first_column + n * 8 + 2 * static_cast<int>(threadIdx.x % 4) + next;
        const PhiloxBlock words = kRows == TileRows::queries
                                      ? dropout.block(pairs.batch, pairs.head, row, column)
                                      : dropout.block(pairs.batch, pairs.head, column, row);
#pragma unroll
        for (int half = 0; half < 2; ++half)
#pragma unroll
          for (int right = 0; right < 2; ++right) {
            const int word = kRows == TileRows::queries ? WeightDropout::word(half, right)
                                                        : WeightDropout::word(right, half);
            const int i = 4 * (n + right) + 2 * half + next;
            bits[i / 32] |= static_cast<unsigned>(dropout.keeps(words.word[word])) << i % 32;
          }
      }
  }
  /// The weight times its Z.
  __device__ float apply(int i, float weight) const {
    return bits[i / 32] >> i % 32 & 1 ? weight * scale : 0.0f;
  }
};

/// Sizes of the forward kernel: as many blocks as their registers allow, so that one multiplies while others
/// take powers; for wide heads two warpgroups that share their keys. A row bias needs a second set of sums.
template <class V, int D>
struct ForwardSizes {
  static constexpr bool kHasRowBias = has(V::slots, Slots::row_bias);
  static constexpr int kWarpgroups = D == 64 ? 1 : 2, kThreads = kWarpgroups * kWarpgroup,
                       kRows = kWarpgroups * 64;
  static constexpr int kKeys = D == 64 || kHasRowBias ? 64 : 128;
  // Of a multiprocessor. A weight that is no power needs registers of its own.
  static constexpr int kBlocks = D == 128 ? 1 : kHasRowBias ? 2 : HasLogSumExp<V> ? 4 : 3;
  using Queries = RowTile<D, kRows>;
  using Keys = RowTile<D, kKeys>;
  static constexpr int kBytes = Queries::kBytes + 4 * Keys::kBytes;
};

template <class V, int D>
__global__ void __launch_bounds__(ForwardSizes<V, D>::kThreads, ForwardSizes<V, D>::kBlocks)
    forward_kernel(SoftmaxForward<V, bf16> a) {
  using Sizes = ForwardSizes<V, D>;
  using Keys = typename Sizes::Keys;
  constexpr int kKeys = Sizes::kKeys, kThreads = Sizes::kThreads;
  constexpr bool kHasRowBias = Sizes::kHasRowBias;
  extern __shared__ __align__(1024) uint4 memory[];
  const typename Sizes::Queries queries{shared_address(memory)};
  const auto stage_of = [&](int index) {
    return Keys{queries.address + static_cast<unsigned>(Sizes::Queries::kBytes + index * Keys::kBytes)};
  };
  const Pairs<V, SoftmaxForward<V, bf16>> pairs(a, blockIdx.z, blockIdx.y);
  const int T = static_cast<int>(a.q.size[1]);
  // Blocks with the most keys start first.
  const int first = static_cast<int>(gridDim.x - 1 - blockIdx.x) * Sizes::kRows;
  const int lane = threadIdx.x % kWarp, own = rows_of_warpgroup();
  const auto row_of = [&](int half) { return first + own + rows_of_warp() + half * 8 + lane / 4; };
  // Logits are kept in units of this, and exponents of powers of two are that many times them.
  const float scale = static_cast<float>(a.scale), unit = kLogitIsScore<V> ? scale : 1, power = unit * kLog2E;
  const auto logit = [&](float x, int t, int j, const KeySlots& key) {
    if constexpr (kLogitIsScore<V>)
      return x;
    else
      return pairs.logit(x * scale, t, j, key);
  };

  const IndexRange range = pairs.plan.keys_of(first, min(first + Sizes::kRows, T) - 1);
  int tile = range.first / kKeys * kKeys;
  const auto load = [&](int keys_at, int stage) {
    stage_of(2 * stage).template load<kThreads>(a.k, pairs.batch, keys_at, pairs.kv);
    stage_of(2 * stage + 1).template load<kThreads>(a.v, pairs.batch, keys_at, pairs.kv);
  };
  __shared__ KeySlots key_stages[2][kKeys];
  StreamedKeys<V, kKeys> key_slots{key_stages};
  queries.template load<kThreads>(a.q, pairs.batch, first, pairs.head);
  if (tile < range.last) load(tile, 0);
  commit_copies();
  key_slots.read(pairs, tile);

  Sums<D> sums, visible;
  float largest[2], total[2] = {};
  bool computes[2];
#pragma unroll
  for (int half = 0; half < 2; ++half) {
    largest[half] = HasLogSumExp<V> ? -INFINITY : 0.0f;
    if constexpr (has(V::slots, Slots::sink)) largest[half] = a.slots.sink(pairs.head) / unit;
    const int t = row_of(half);
    computes[half] = t < T && pairs.computes(t);
  }

  const int own_first = first + own, own_last = min(own_first + 64, T) - 1;
  for (int stage = 0; tile < range.last; tile += kKeys, stage ^= 1) {
    key_slots.show(stage);
    wait_for_stage();
    if (tile + kKeys < range.last) load(tile + kKeys, stage ^ 1);
    commit_copies();
    key_slots.read(pairs, tile + kKeys);
    if (own_first > own_last || !pairs.plan.visits(own_first, own_last, tile, tile + kKeys - 1)) continue;
    const int here = uniform(stage);
    const Keys keys = stage_of(2 * here), values = stage_of(2 * here + 1);
    Scores<kKeys> scores;
    wgmma_fence();
    scores.multiply(queries, own, keys);
    wgmma_commit();
    const KeptWeights<V, kKeys, TileRows::queries> kept(pairs, row_of(0), tile);  // meanwhile
    wgmma_wait<0>();
    const bool whole = pairs.is_whole(own_first, own_last, tile, tile + kKeys - 1);
    [[maybe_unused]] Scores<kHasRowBias ? kKeys : 16> seen;
    if (whole) {
      scores.each([&](int i, int half, int column) {
        scores[i] = logit(scores[i], row_of(half), tile + column, key_slots.at(here, column));
        if constexpr (kHasRowBias) seen[i] = 1;
      });
    } else {
      scores.each([&](int i, int half, int column) {
        const int t = row_of(half), j = tile + column;
        const KeySlots key = key_slots.at(here, column);
        const bool sees = computes[half] && pairs.sees(t, j, key);
        scores[i] = sees ? logit(scores[i], t, j, key) : -INFINITY;
        if constexpr (kHasRowBias) seen[i] = sees ? 1.0f : 0.0f;
      });
    }
    float offset[2];
#pragma unroll
    for (int half = 0; HasLogSumExp<V> && half < 2; ++half) {
      float next = largest[half];
#pragma unroll
      for (int n = 0; n < kKeys / 8; ++n)
        next = fmaxf(next, fmaxf(scores.values[n][2 * half], scores.values[n][2 * half + 1]));
      next = quad_max(next);
      offset[half] = next == -INFINITY ? 0.0f : next * power;  // a row that has seen nothing
      const float factor = power_of_2(largest[half] * power - offset[half]);
      largest[half] = next;
      total[half] *= factor;
      sums.scale(half, factor);
    }
    scores.each([&](int i, int half, int) {
      if constexpr (HasLogSumExp<V>)
        scores[i] = power_of_2(scores[i] * power - offset[half]);
      else
        scores[i] = scores[i] == -INFINITY ? 0.0f : V::Weight::weight(scores[i], FastExp{});
      total[half] += scores[i];
      if constexpr (V::drops_weights) scores[i] = kept.apply(i, scores[i]);
    });
    const Weights<kKeys> weights(scores);
    if constexpr (kHasRowBias) {
      const Weights<kKeys> of_all(seen);
      wgmma_fence();
      visible.add(of_all, values);
    } else {
      wgmma_fence();
    }
    sums.add(weights, values);
    wgmma_commit();
    wgmma_wait<0>();
  }

  float of_product[2], of_visible[2], inverse[2];
#pragma unroll
  for (int half = 0; half < 2; ++half) {
    float sum = quad_sum(total[half]);
    if constexpr (has(V::slots, Slots::sink))
      sum += power_of_2(a.slots.sink(pairs.head) * kLog2E - largest[half] * power);
    if constexpr (!V::Weight::is_normalised) sum = 1;
    // A sum of zero means a row without keys. A sum that is NaN is not zero, so it reaches the output.
    const bool is_empty = sum == 0 || !computes[half];
    const int t = row_of(half);
    inverse[half] = is_empty ? 0.0f : 1 / sum;
    of_product[half] = computes[half] ? inverse[half] * pairs.row_scale(t) : 0.0f;
    of_visible[half] = computes[half] ? pairs.row_bias(t) : 0.0f;
    if (lane % 4 == 0 && t < T)
      a.log_sum_exp(pairs.batch, pairs.head, t) = is_empty ? -INFINITY : largest[half] * unit + logf(sum);
  }
  wait_for_copies<0>();
  __syncthreads();  // the queries are there even without a key, and have been read
  store_rows(a.o, pairs.batch, first, pairs.head, queries, own, [&](int n, int half) {
    const auto o = [&](int e) {
      const int i = 2 * half + e;
      if constexpr (kHasRowBias)
        return of_product[half] * sums.values[n][i] + of_visible[half] * visible.values[n][i];
      else
        return of_product[half] * sums.values[n][i];
    };
    return round_pair(o(0), o(1));
  });
  if (kScalesRows<V> && a.y)
    store_rows(a.y, pairs.batch, first, pairs.head, queries, own,
               [&](int n, int half) { return sums.pair(n, half, inverse[half]); });
}

/// Sizes of both backward kernels, and their shared memory: two tensors of the owned side, and two stages of
/// two tensors of the streamed side.
template <class V, int D>
struct BackwardSizes {
  static constexpr int kThreads = kWarpgroup, kOwn = 64, kStreamed = 64;
  // Of a multiprocessor. Slopes of a score or a weight need registers of their own.
  static constexpr int kBlocks = D == 64 && kHasDefaultScore<V> && HasLogSumExp<V> ? 3 : 2;
  using Tile = RowTile<D, 64>;
  static constexpr int kTileBytes = 6 * Tile::kBytes;

  struct Tiles {
    unsigned base;
    __device__ Tile owned(int which) const { return {base + static_cast<unsigned>(which * Tile::kBytes)}; }
    __device__ Tile streamed(int stage, int which) const {
      return {base + static_cast<unsigned>((2 + 2 * stage + which) * Tile::kBytes)};
    }
    /// Two groups of products: owned(0) times the first streamed tensor, and owned(1) times the second.
    __device__ void multiply(Scores<kStreamed>& scores, Scores<kStreamed>& dp, int stage) const {
      wgmma_fence();
      scores.multiply(owned(0), 0, streamed(stage, 0));
      wgmma_commit();
      dp.multiply(owned(1), 0, streamed(stage, 1));
      wgmma_commit();
    }
  };
};

/// The weight of a pair from its product, its derivative by the logit, and the derivative of that by the
/// score: zero, zero and one where it is not seen.
template <class V, class Args>
struct PairWeight {
  const Pairs<V, Args>& pairs;
  float scale;

  /// norm: as row_norm_in_base_2 returns it.
  __device__ WeightAndSlope<float> operator()(bool sees, float product, int t, int j, const KeySlots& key,
                                              float norm, ScoreSlopes<float>& slopes) const {
    slopes = {1, {}};
    if constexpr (kLogitIsScore<V>) {
      const float weight = power_of_2(sees ? product * (scale * kLog2E) - norm : -INFINITY);
      return {weight, weight};
    }
    if (!sees) return {0, 0};
    const float score = product * scale;
    slopes = pairs.slopes(score, t, j);
    const float logit = pairs.logit(score, t, j, key);
    if constexpr (HasLogSumExp<V>) {
      const float weight = power_of_2(logit * kLog2E - norm);
      return {weight, weight};
    } else {
      return pair_weight<V>(logit, norm, FastExp{});
    }
  }
};

template <class V, int D>
__global__ void __launch_bounds__(BackwardSizes<V, D>::kThreads, BackwardSizes<V, D>::kBlocks)
    query_kernel(SoftmaxBackward<V, bf16> a, const float* row_dots, float* head_parts) {
  using Sizes = BackwardSizes<V, D>;
  constexpr int kKeys = Sizes::kStreamed, kThreads = Sizes::kThreads;
  constexpr bool kHasHeadParameter = has(V::slots, Slots::head_parameter);
  extern __shared__ __align__(1024) uint4 memory[];
  const typename Sizes::Tiles tiles{shared_address(memory)};
  const Pairs<V, SoftmaxBackward<V, bf16>> pairs(a, blockIdx.z, blockIdx.y);
  const int T = static_cast<int>(a.q.size[1]);
  const int first = static_cast<int>(gridDim.x - 1 - blockIdx.x) * Sizes::kOwn;
  const int lane = threadIdx.x % kWarp;
  const auto row_of = [&](int half) { return first + rows_of_warp() + half * 8 + lane / 4; };
  const float scale = static_cast<float>(a.scale);
  const PairWeight<V, SoftmaxBackward<V, bf16>> weight_of{pairs, scale};

  const int last = min(first + Sizes::kOwn, T) - 1;
  const IndexRange range = pairs.plan.keys_of(first, last);
  int tile = range.first / kKeys * kKeys;
  const auto load = [&](int keys_at, int stage) {
    tiles.streamed(stage, 0).template load<kThreads>(a.k, pairs.batch, keys_at, pairs.kv);
    tiles.streamed(stage, 1).template load<kThreads>(a.v, pairs.batch, keys_at, pairs.kv);
  };
  tiles.owned(0).template load<kThreads>(a.q, pairs.batch, first, pairs.head);
  __shared__ KeySlots key_stages[2][kKeys];
  StreamedKeys<V, kKeys> key_slots{key_stages};
  tiles.owned(1).template load<kThreads>(a.dout, pairs.batch, first, pairs.head);
  if (tile < range.last) load(tile, 0);
  commit_copies();
  key_slots.read(pairs, tile);

  float norm[2], row_dot[2], centre[2], row_scale[2], dbias[2] = {};
  bool computes[2];
#pragma unroll
  for (int half = 0; half < 2; ++half) {
    const int t = row_of(half);
    computes[half] = t < T && pairs.computes(t);
    norm[half] = computes[half] ? row_norm_in_base_2<V>(a.log_sum_exp(pairs.batch, pairs.head, t)) : 0.0f;
    row_dot[half] =
        computes[half] ? row_dots[(pairs.batch * a.q.size[2] + pairs.head) * a.q.size[1] + t] : 0.0f;
    centre[half] = V::Weight::is_normalised ? row_dot[half] : 0.0f;
    row_scale[half] = computes[half] ? pairs.row_scale(t) : 0.0f;
  }
  [[maybe_unused]] float dhead = 0;
  Sums<D> dq;
  for (int stage = 0; tile < range.last; tile += kKeys, stage ^= 1) {
    key_slots.show(stage);
    wait_for_stage();
    if (tile + kKeys < range.last) load(tile + kKeys, stage ^ 1);
    commit_copies();
    key_slots.read(pairs, tile + kKeys);
    if (!pairs.plan.visits(first, last, tile, tile + kKeys - 1)) continue;
    Scores<kKeys> scores, dp;
    const int here = uniform(stage);
    tiles.multiply(scores, dp, here);
    const KeptWeights<V, kKeys, TileRows::queries> kept(pairs, row_of(0), tile);
    const bool whole = pairs.is_whole(first, last, tile, tile + kKeys - 1);
    // Each pair's part of dq for its part of dp, which is under way meanwhile.
    Scores<kKeys> of_query;
    [[maybe_unused]] Scores<kHasHeadParameter ? kKeys : 16> of_head;
    const auto weigh = [&](bool seen, int i, int half, int column) {
      ScoreSlopes<float> slopes;
      const WeightAndSlope<float> weight = weight_of(seen, scores[i], row_of(half), tile + column,
                                                     key_slots.at(here, column), norm[half], slopes);
      of_query[i] = weight.slope * slopes.score;
      // Scaled by zero in rows that are not computed, whose weights mean nothing.
      if constexpr (kHasHeadParameter) of_head[i] = weight.slope * slopes.learned.head * row_scale[half];
      if constexpr (has(V::slots, Slots::row_scale)) of_query[i] *= row_scale[half];
    };
    const auto sees = [&](int half, int column) {
      return computes[half] && pairs.sees(row_of(half), tile + column, key_slots.at(here, column));
    };
    wgmma_wait<1>();
    scores.each(whole, sees, weigh);
    wgmma_wait<0>();
    scores.each([&](int i, int half, int column) {
      if constexpr (has(V::slots, Slots::row_bias))
        if (whole || sees(half, column)) dbias[half] += dp[i];
      const float of_weight = kept.apply(i, dp[i]) - centre[half];
      of_query[i] *= of_weight;
      if constexpr (kHasHeadParameter) dhead += of_head[i] * of_weight;
    });
    const Weights<kKeys> weights(of_query);
    wgmma_fence();
    dq.add(weights, tiles.streamed(here, 0));
    wgmma_commit();
    wgmma_wait<0>();
  }
  wait_for_copies<0>();
  __syncthreads();  // the queries are there even without a key, and have been read
  store_rows(a.dq, pairs.batch, first, pairs.head, tiles.owned(0), 0,
             [&](int n, int half) { return dq.pair(n, half, scale); });
#pragma unroll
  for (int half = 0; half < 2; ++half) {
    const int t = row_of(half);
    const float sum = quad_sum(dbias[half]);
    if (t >= T || lane % 4 != 0) continue;
    if (a.dslots.row_bias) a.dslots.row_bias(pairs.batch, pairs.head, t) = sum;
    if (a.dslots.row_scale) a.dslots.row_scale(pairs.batch, pairs.head, t) = row_dot[half];
  }
  if constexpr (kHasHeadParameter) {
    dhead = block_sum(dhead);
    const int64_t block =
        (static_cast<int64_t>(pairs.batch) * gridDim.y + pairs.head) * gridDim.x + blockIdx.x;
    if (threadIdx.x == 0) head_parts[block] = dhead;
  }
}

/// What the key kernel needs of the query rows of a tile, one array after the other: row_norm_in_base_2, D_i
/// (0 where weights are not normalised), and r_i and beta_i where there are any.
template <class V, int kQueries>
struct RowValues {
  static constexpr int kArrays = kScalesRows<V> ? 4 : 2,
                       kBytes = kArrays * kQueries * static_cast<int>(sizeof(float));
  float* data;

  __device__ float& norm(int row) const { return data[row]; }
  __device__ float& dot(int row) const { return data[kQueries + row]; }
  __device__ float& scale(int row) const { return data[2 * kQueries + row]; }
  __device__ float& bias(int row) const { return data[3 * kQueries + row]; }
};

template <class V, int D>
__global__ void __launch_bounds__(BackwardSizes<V, D>::kThreads, BackwardSizes<V, D>::kBlocks)
    key_kernel(SoftmaxBackward<V, bf16> a, const float* row_dots) {
  using Sizes = BackwardSizes<V, D>;
  constexpr int kQueries = Sizes::kStreamed, kThreads = Sizes::kThreads;
  using Rows = RowValues<V, kQueries>;
  static_assert(kQueries <= kThreads);
  extern __shared__ __align__(1024) uint4 memory[];
  const typename Sizes::Tiles tiles{shared_address(memory)};
  const auto rows_of = [&](int stage) {
    return Rows{reinterpret_cast<float*>(memory) +
                (Sizes::kTileBytes + stage * Rows::kBytes) / sizeof(float)};
  };
  const int T = static_cast<int>(a.q.size[1]), Tk = static_cast<int>(a.k.size[1]);
  const int b = static_cast<int>(blockIdx.z), kv = static_cast<int>(blockIdx.y);
  const int group = static_cast<int>(a.q.size[2] / a.k.size[2]);
  const int first = static_cast<int>(blockIdx.x) * Sizes::kOwn;
  const int lane = threadIdx.x % kWarp;
  const auto key_of = [&](int half) { return first + rows_of_warp() + half * 8 + lane / 4; };
  const float scale = static_cast<float>(a.scale);
  tiles.owned(0).template load<kThreads>(a.k, b, first, kv);
  tiles.owned(1).template load<kThreads>(a.v, b, first, kv);

  Sums<D> dk, dv;
  float dkey_bias[2] = {};
  const int last = min(first + Sizes::kOwn, Tk) - 1;
  const Pairs<V, SoftmaxBackward<V, bf16>> of_group(a, b, kv * group);
  const IndexRange range = of_group.plan.rows_of(first, last);
  const KeySlots key_slots[2] = {of_group.key(key_of(0)), of_group.key(key_of(1))};
  for (int h = kv * group; h < (kv + 1) * group; ++h) {
    const Pairs<V, SoftmaxBackward<V, bf16>> pairs(a, b, h);
    const PairWeight<V, SoftmaxBackward<V, bf16>> weight_of{pairs, scale};
    const auto load = [&](int queries_at, int stage) {
      tiles.streamed(stage, 0).template load<kThreads>(a.q, b, queries_at, h);
      tiles.streamed(stage, 1).template load<kThreads>(a.dout, b, queries_at, h);
    };
    // Ordinary loads, so they are asked for with the tile, and first touched when it is needed.
    float log_sum_exp, dot, row_scale, row_bias;
    const auto read_rows = [&](int queries_at) {
      const int t = queries_at + static_cast<int>(threadIdx.x);
      const bool computes = static_cast<int>(threadIdx.x) < kQueries && t < T && pairs.computes(t);
      // Weights of a row that is not computed are exp(-inf).
      log_sum_exp = computes ? a.log_sum_exp(b, h, t) : INFINITY;
      dot = computes && V::Weight::is_normalised ? row_dots[(b * a.q.size[2] + h) * a.q.size[1] + t] : 0.0f;
      if constexpr (kScalesRows<V>) {
        row_scale = computes ? pairs.row_scale(t) : 0.0f;
        row_bias = computes ? pairs.row_bias(t) : 0.0f;
      }
    };
    const auto show_rows = [&](int stage) {
      const int i = static_cast<int>(threadIdx.x);
      if (i >= kQueries) return;
      const Rows rows = rows_of(stage);
      rows.norm(i) = row_norm_in_base_2<V>(log_sum_exp);
      rows.dot(i) = dot;
      if constexpr (kScalesRows<V>) {
        rows.scale(i) = row_scale;
        rows.bias(i) = row_bias;
      }
    };
    int tile = range.first / kQueries * kQueries;
    __syncthreads();  // stages of the head before have been read
    if (tile < range.last) {
      load(tile, 0);
      read_rows(tile);
      show_rows(0);
    }
    commit_copies();
    for (int stage = 0; tile < range.last; tile += kQueries, stage ^= 1) {
      wait_for_stage();
      const bool has_next = tile + kQueries < range.last;
      if (has_next) {
        load(tile + kQueries, stage ^ 1);
        read_rows(tile + kQueries);
      }
      commit_copies();
      if (pairs.plan.visits(tile, tile + kQueries - 1, first, last)) {
        Scores<kQueries> scores, dp;
        const int here = uniform(stage);
        tiles.multiply(scores, dp, here);
        const KeptWeights<V, kQueries, TileRows::keys> kept(pairs, key_of(0), tile);
        const bool whole =
            pairs.is_whole(tile, tile + kQueries - 1, first, last) && last == first + Sizes::kOwn - 1;
        const Rows rows = rows_of(stage);
        // Each pair's part of dv, and meanwhile its part of dk.
        Scores<kQueries> weights, score_slopes, of_value, of_key;
        const auto sees = [&](int half, int column) {
          // Weights of a row behind the last are exp(-inf).
          return pairs.sees(tile + column, key_of(half), key_slots[half]);
        };
        const auto weigh = [&](bool seen, int i, int half, int column) {
          ScoreSlopes<float> slopes;
          const WeightAndSlope<float> weight = weight_of(seen, scores[i], tile + column, key_of(half),
                                                         key_slots[half], rows.norm(column), slopes);
          score_slopes[i] = slopes.score;
          weights[i] = weight.slope;
          of_value[i] = kept.apply(i, weight.value);
          if constexpr (kScalesRows<V>)
            of_value[i] = seen ? rows.scale(column) * of_value[i] + rows.bias(column) : 0.0f;
        };
        wgmma_wait<1>();
        scores.each(whole, sees, weigh);
        const Weights<kQueries> in_dv(of_value);
        wgmma_fence();
        dv.add(in_dv, tiles.streamed(here, 1));
        wgmma_commit();
        wgmma_wait<1>();
        scores.each([&](int i, int half, int column) {
          of_key[i] = weights[i] * (kept.apply(i, dp[i]) - rows.dot(column));
          if constexpr (kScalesRows<V>) of_key[i] *= rows.scale(column);
          if constexpr (has(V::slots, Slots::key_bias)) dkey_bias[half] += of_key[i];
          of_key[i] *= score_slopes[i];
        });
        const Weights<kQueries> in_dk(of_key);
        wgmma_fence();
        dk.add(in_dk, tiles.streamed(here, 0));
        wgmma_commit();
        wgmma_wait<0>();
      }
      if (has_next) show_rows(stage ^ 1);
    }
  }
  wait_for_copies<0>();
  __syncthreads();  // the keys and values are there even without a query, and have been read
  store_rows(a.dk, b, first, kv, tiles.owned(0), 0, [&](int n, int half) { return dk.pair(n, half, scale); });
  store_rows(a.dv, b, first, kv, tiles.owned(1), 0, [&](int n, int half) { return dv.pair(n, half, 1); });
#pragma unroll
  for (int half = 0; half < 2; ++half) {
    const int j = key_of(half);
    const float sum = quad_sum(dkey_bias[half]);
    if (j < Tk && lane % 4 == 0 && a.dslots.key_bias) a.dslots.key_bias(b, kv, j) = sum;
  }
}

inline dim3 grid_of(int64_t rows, int per_block, int64_t heads, int64_t batch) {
  return dim3(blocks_for(rows, per_block), static_cast<unsigned>(heads), static_cast<unsigned>(batch));
}

template <class V, int D>
void launch_forward(const SoftmaxForward<V, bf16>& args, Stream& stream) {
  using Sizes = ForwardSizes<V, D>;
  const auto& q = args.q.size;
  allow_shared(forward_kernel<V, D>, Sizes::kBytes, args.name);
  forward_kernel<V, D>
      <<<grid_of(q[1], Sizes::kRows, q[2], q[0]), Sizes::kThreads, Sizes::kBytes, stream.native()>>>(args);
  check_launch(args.name);
}

inline constexpr int64_t kWidestHead = 128;

/// Of the wider of keys and values, whose tiles are as wide.
template <class Args>
int64_t head_dim_of(const Args& args) {
  return std::max(args.q.size[3], args.v.size[3]);
}

inline std::string width_refusal(int64_t head_dim) {
  return head_dim <= kWidestHead ? ""
                                 : "a head has " + std::to_string(head_dim) + " channels, more than " +
                                       std::to_string(kWidestHead);
}

template <class V>
std::string forward_refusal(const SoftmaxForward<V, bf16>& args, const Stream&) {
  if (std::string refusal = width_refusal(head_dim_of(args)); !refusal.empty()) return refusal;
  // The largest score is looked for before the scale is applied.
  if (!(args.scale > 0)) return "the scale " + std::to_string(args.scale) + " is not positive";
  return first_row_refusal(NamedRows{"q", args.q}, NamedRows{"k", args.k}, NamedRows{"v", args.v},
                           NamedRows{"o", args.o}, NamedRows{"y", args.y});
}

template <class V>
void forward(const SoftmaxForward<V, bf16>& args, Stream& stream) {
  head_dim_of(args) <= 64 ? launch_forward<V, 64>(args, stream) : launch_forward<V, 128>(args, stream);
}

template <class V, int D>
void launch_backward(const SoftmaxBackward<V, bf16>& args, const simple::BackwardScratch& scratch,
                     Stream& stream) {
  using Sizes = BackwardSizes<V, D>;
  constexpr int kKeyBytes = Sizes::kTileBytes + 2 * RowValues<V, Sizes::kStreamed>::kBytes;
  const auto &q = args.q.size, &k = args.k.size;
  allow_shared(query_kernel<V, D>, Sizes::kTileBytes, args.name);
  allow_shared(key_kernel<V, D>, kKeyBytes, args.name);
  query_kernel<V, D>
      <<<grid_of(q[1], Sizes::kOwn, q[2], q[0]), Sizes::kThreads, Sizes::kTileBytes, stream.native()>>>(
          args, scratch.row_dots, scratch.head_parts);
  simple::sum_head_parameters(args, scratch.head_parts, Sizes::kOwn, stream);
  key_kernel<V, D><<<grid_of(k[1], Sizes::kOwn, k[2], q[0]), Sizes::kThreads, kKeyBytes, stream.native()>>>(
      args, scratch.row_dots);
  check_launch(args.name);
}

template <class V>
std::string backward_refusal(const SoftmaxBackward<V, bf16>& args, const Stream&) {
  if (has(V::slots, Slots::row_parameter | Slots::key_parameter))
    return "the variant has parameters of rows or keys";
  if (has(V::slots, Slots::head_parameter) && V::num_head_parameters(args.params) > 1)
    return "a head has " + std::to_string(V::num_head_parameters(args.params)) + " parameters, more than one";
  if (std::string refusal = width_refusal(head_dim_of(args)); !refusal.empty()) return refusal;
  return first_row_refusal(NamedRows{"q", args.q}, NamedRows{"k", args.k}, NamedRows{"v", args.v},
                           NamedRows{"dout", args.dout}, NamedRows{"dq", args.dq}, NamedRows{"dk", args.dk},
                           NamedRows{"dv", args.dv});
}

template <class V>
void backward(const SoftmaxBackward<V, bf16>& args, Stream& stream) {
  const simple::BackwardScratch scratch = simple::prepare_backward(args, BackwardSizes<V, 64>::kOwn, stream);
  head_dim_of(args) <= 64 ? launch_backward<V, 64>(args, scratch, stream)
                          : launch_backward<V, 128>(args, scratch, stream);
}

}  // namespace headway::cuda::tensor
