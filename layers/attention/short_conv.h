// Short causal convolutions of query, key and value rows over time, one per channel, after the projections
// and before the split into heads (Primer, arXiv 2109.08668, section 4.2; equation in
// kernels/ops/causal_conv.h). A layer with them sees its last tokens whatever its kind, which alone is worth
// much on recall.
#pragma once

#include <string>
#include <vector>

#include "core/fields.h"
#include "layers/attention/query_key_value.h"
#include "layers/attention/row_history.h"
#include "layers/module.h"

namespace headway {

/// The key model.attention.short_conv.
inline void describe_short_conv(FieldVisitor& v, int64_t& taps) {
  v("short_conv", taps, "taps of the causal convolutions on queries, keys and values; 0 = none",
    {.min = 0, .max = 64});
}

/// Parameters query_conv/weight, key_conv/weight and value_conv/weight [channels,taps], none where taps = 0.
/// Owners add it as a child without a name of its own, so that these are the owner's paths.
class ShortConvs : public Module {
 public:
  struct Options {
    int64_t taps = 0;          // 0: no convolutions
    bool silu_values = false;  // SiLU after the convolution of the values
  };
  struct Config : Options {
    int64_t query_dim = 0;
    int64_t key_dim = 0;  // of keys and of values
  };
  explicit ShortConvs(const Config&);

  /// Rows [B,T,C] -> the same shapes, unchanged where taps = 0. past: of make_history, or null where token 0
  /// has nothing before it; it is moved on.
  QueryKeyValue forward(Context&, const QueryKeyValue& rows, std::vector<RowHistory>* past) const;
  /// As AttentionLayer::objection_to_split.
  std::string objection_to_split(int64_t segment_length) const;
  /// What decoding keeps: the last taps - 1 rows of queries, keys and values. Empty where taps = 0.
  std::vector<RowHistory> make_history() const;

  /// A multiply-add counts two.
  double forward_flop_per_token() const { return static_cast<double>(2 * num_channels() * config_.taps); }
  /// Rows before the convolutions, kept for backward.
  double saved_values_per_token() const { return static_cast<double>(num_channels()); }
  int64_t state_bytes(int64_t value_bytes) const {
    return num_channels() > 0 ? num_channels() * (config_.taps - 1) * value_bytes : 0;
  }

 private:
  int64_t num_channels() const { return config_.taps > 0 ? config_.query_dim + 2 * config_.key_dim : 0; }

  Config config_;
  Parameter *query_ = nullptr, *key_ = nullptr, *value_ = nullptr;
};

}  // namespace headway
