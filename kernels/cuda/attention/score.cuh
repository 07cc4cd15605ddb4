// What every softmax attention kernel asks about one (query, key) pair, for any variant.
#pragma once

#include <climits>

#include "kernels/attention/plan.h"
#include "kernels/attention/softmax.h"
#include "kernels/attention/weight_dropout.h"
#include "kernels/cuda/launch.cuh"

namespace headway::cuda {

/// What the slots say of one key.
struct KeySlots {
  float bias = 0;
  int end = INT_MAX;
};
template <class V>
inline constexpr bool kHasKeySlots = has(V::slots, Slots::key_bias | Slots::key_end);

/// Args: SoftmaxForward or SoftmaxBackward.
template <class V, class Args>
struct Pairs {
  const Args& args;
  TilePlan<V> plan;
  int batch, head, kv;  // query head, and the key/value head it reads

  __device__ Pairs(const Args& a, int b, int h)
      : args(a),
        plan{a.params, static_cast<int>(a.query_offset), static_cast<int>(a.q.size[1]),
             static_cast<int>(a.k.size[1])},
        batch(b),
        head(h),
        kv(h / static_cast<int>(a.q.size[2] / a.k.size[2])) {}

  /// Whether query row t is computed at all.
  __device__ bool computes(int t) const {
    if constexpr (has(V::slots, Slots::row_index)) {
      const auto& index = args.slots.row_index;
      for (int64_t low = 0, high = index.size[2]; low < high;) {
        const int64_t middle = (low + high) / 2;
        const int row = index(batch, head, middle);
        if (row == t) return true;
        if (row >= 0 && row < t)
          low = middle + 1;
        else
          high = middle;
      }
      return false;
    }
    return true;
  }
  __device__ KeySlots key(int j) const {
    KeySlots key;
    if (j >= plan.num_keys) return key;
    if constexpr (has(V::slots, Slots::key_bias)) key.bias = args.slots.key_bias(batch, kv, j);
    if constexpr (has(V::slots, Slots::key_end)) key.end = args.slots.key_end(batch, kv, j);
    return key;
  }
  /// Never a key behind the last.
  __device__ bool sees(int t, int j, const KeySlots& key) const {
    if (!plan.sees(t, j)) return false;
    if constexpr (has(V::slots, Slots::key_end)) return plan.query_offset + t < key.end;
    return true;
  }
  __device__ bool sees(int t, int j) const { return sees(t, j, key(j)); }
  /// Whether every pair of the tile is seen, as TilePlan says it; never where a slot has a say.
  __device__ bool is_whole(int q0, int q1, int k0, int k1) const {
    return !has(V::slots, Slots::key_end | Slots::row_index) && plan.is_whole(q0, q1, k0, k1);
  }
  __device__ Coord at(int t, int j) const { return {batch, head, plan.query_offset + t, j}; }
  /// t: may be behind the last, in a tile that reaches so far.
  __device__ Learned<float> learned(int t, int j) const {
    return learned_of<V, float>(args.slots, args.params, kv, min(t, plan.num_queries - 1), at(t, j));
  }
  /// The softmax's input from the scaled score.
  __device__ float logit(float raw, int t, int j, const KeySlots& key) const {
    float x = score_of<V>(args.params, raw, learned(t, j), at(t, j));
    if constexpr (has(V::slots, Slots::key_bias)) x += key.bias;
    return x;
  }
  __device__ float logit(float raw, int t, int j) const { return logit(raw, t, j, key(j)); }
  /// Of a pair that is seen, from its logit; for weights that are functions of one score.
  __device__ static float weight(float logit) {
    return V::Weight::weight(logit, [](float x) { return expf(x); });
  }
  __device__ ScoreSlopes<float> slopes(float raw, int t, int j) const {
    return score_slopes<V>(args.params, raw, learned(t, j), at(t, j));
  }
  /// Z_ij of weight_dropout.h
  __device__ float kept(int t, int j) const {
    if constexpr (V::drops_weights) return args.params.dropout.factor(batch, head, t, j);
    return 1;
  }
  __device__ float row_scale(int t) const {
    if constexpr (has(V::slots, Slots::row_scale)) return args.slots.row_scale(batch, head, t);
    return 1;
  }
  __device__ float row_bias(int t) const {
    if constexpr (has(V::slots, Slots::row_bias)) return args.slots.row_bias(batch, head, t);
    return 0;
  }
};

}  // namespace headway::cuda
