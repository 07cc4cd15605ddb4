// Work and memory of a layer of the softmax family.
#pragma once

#include <algorithm>

#include "layers/attention/attention_layer.h"

namespace headway {

/// Visible (query, key) pairs of one sequence: a causal triangle, or a band of `window` keys.
inline double visible_pairs(int64_t tokens, int64_t window) {
  const auto T = static_cast<double>(tokens),
             W = static_cast<double>(window > 0 ? std::min(window, tokens) : tokens);
  return W * (W + 1) / 2 + (T - W) * W;
}

/// Two matrix products per visible pair forward (scores, values), five backward (scores again, dv, dp, dq,
/// dk).
inline Cost softmax_cost(const AttentionConfig& c, const ModelShape& shape, int64_t batch, int64_t tokens,
                         int64_t value_bytes) {
  const auto rows = static_cast<double>(batch * tokens), D = static_cast<double>(shape.model_dim);
  const auto q_width = static_cast<double>(c.num_heads * c.head_dim);
  const auto kv_width = static_cast<double>(c.num_kv_heads * c.head_dim);
  const double projections = 2 * rows * D * (2 * q_width + 2 * kv_width);
  const double pair_products = 2 * static_cast<double>(batch) * q_width * visible_pairs(tokens, c.window);
  const double norms = c.qk_norm ? q_width + kv_width : 0;
  return {.forward_flop = projections + 2 * pair_products,
          .backward_flop = 2 * projections + 5 * pair_products,
          // input, query, key, value, output and the log-sum-exp
          .saved_bytes = rows * static_cast<double>(value_bytes) * (D + 2 * q_width + 2 * kv_width + norms) +
                         rows * 4 * static_cast<double>(c.num_heads)};
}

}  // namespace headway
