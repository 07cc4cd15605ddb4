// Work and memory of a layer of the softmax family.
#pragma once

#include <algorithm>
#include <cmath>

#include "layers/attention/attention_layer.h"

namespace headway {

/// Visible (query, key) pairs of one sequence: a causal triangle, or a band of `window` keys.
inline double visible_pairs(int64_t tokens, int64_t window) {
  const auto T = static_cast<double>(tokens),
             W = static_cast<double>(window > 0 ? std::min(window, tokens) : tokens);
  return W * (W + 1) / 2 + (T - W) * W;
}

/// The pairs of the tiles that the kernels compute whole, for the sake of the visible pairs in them: 64 rows
/// by 64 keys on the CPU, up to the last key that a row of the tile sees. Tiles of the GPU's kernels are 64
/// to 128 wide. share: of the tokens that are rows at all, evenly spread, so that tiles span more of them.
inline double executed_pairs(int64_t tokens, int64_t window, double share = 1) {
  constexpr int64_t kTile = 64;
  const auto span = static_cast<int64_t>(std::ceil(static_cast<double>(kTile) / share));
  double pairs = 0;
  for (int64_t first = 0; first < tokens; first += span) {
    const int64_t end = std::min(first + span, tokens);
    const int64_t first_key = window > 0 ? std::max<int64_t>(first - window + 1, 0) : 0;
    pairs += share * static_cast<double>((end - first) * (end - first_key / kTile * kTile));
  }
  return pairs;
}

/// Of the core over so many pairs of one head and sequence: two matrix products forward (scores, values),
/// five backward (scores again, dv, dp, dq, dk).
inline Flop softmax_core_flop(const AttentionConfig& c, int64_t batch, double pairs) {
  const double product = 2 * static_cast<double>(batch * c.num_heads * c.head_dim) * pairs;
  return {2 * product, 5 * product};
}

inline Cost softmax_cost(const AttentionConfig& c, const ModelShape& shape, int64_t batch, int64_t tokens,
                         int64_t value_bytes) {
  const auto rows = static_cast<double>(batch * tokens), D = static_cast<double>(shape.model_dim);
  const auto q_width = static_cast<double>(c.num_heads * c.head_dim);
  const auto kv_width = static_cast<double>(c.num_kv_heads * c.head_dim);
  const double projections = 2 * rows * D * (2 * q_width + 2 * kv_width);
  const double norms = c.qk_norm ? q_width + kv_width : 0;
  Cost cost{
      .executed_flop = softmax_core_flop(c, batch, executed_pairs(tokens, c.window)),
      .ideal_flop = softmax_core_flop(c, batch, visible_pairs(tokens, c.window)),
      // input, query, key, value, output and the log-sum-exp
      .saved_bytes = rows * static_cast<double>(value_bytes) * (D + 2 * q_width + 2 * kv_width + norms) +
                     rows * 4 * static_cast<double>(c.num_heads)};
  cost.add({projections, 2 * projections});
  return cost;
}

}  // namespace headway
