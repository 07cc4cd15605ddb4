// What the kinds of the linear family share: the work and state of their core
// (kernels/ops/linear_attention.h) and the keys they do not have.
#pragma once

#include <algorithm>
#include <string>

#include "core/error.h"
#include "layers/attention/attention_layer.h"

namespace headway {

/// Chunks of 64 tokens, F features and V value columns per head; states are computed again in backward. The
/// kernels compute all pairs of a chunk, of which a token needs those up to itself.
inline Cost linear_core_cost(double rows, double heads, double F, double V) {
  constexpr double kChunk = 64;
  const auto flop = [&](double pairs) {
    return Flop{rows * heads * (2 * pairs * (F + V) + 4 * F * V),
                rows * heads * (2 * pairs * (3 * F + 2 * V) + 10 * F * V)};
  };
  return {.executed_flop = flop(kChunk), .ideal_flop = flop((kChunk + 1) / 2)};
}

/// Bytes of one sequence's [F,columns] states, kept in fp32 at least.
inline int64_t linear_state_bytes(int64_t heads, int64_t F, int64_t columns, int64_t value_bytes) {
  return heads * F * columns * std::max<int64_t>(value_bytes, 4);
}

/// ConfigError for common keys that need a row of attention weights.
inline void check_without_weights(const AttentionConfig& config) {
  HEADWAY_CHECK(config.window == 0, ConfigError,
                "model.attention.kind = \"" + config.kind + "\" has no window");
  HEADWAY_CHECK(config.dropout == 0, ConfigError,
                "model.attention.dropout is set, but " + config.kind +
                    " has no attention weights that could be dropped: expected 0 (model.dropout drops "
                    "activations)");
}

/// ConfigError for common keys that a kind of the linear family with projections of its own does not have.
inline void check_linear_family(const AttentionConfig& config) {
  HEADWAY_CHECK(config.num_kv_heads == config.num_heads, ConfigError,
                "model.attention.num_kv_heads = " + std::to_string(config.num_kv_heads) +
                    ": expected num_heads for " + config.kind);
  HEADWAY_CHECK(!config.qk_norm && !config.bias, ConfigError,
                "model.attention.kind = \"" + config.kind + "\" has no qk_norm or bias");
  check_without_weights(config);
}

}  // namespace headway
