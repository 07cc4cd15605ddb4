// What the kinds of the linear family share: query, key and value projections, short convolutions, the
// recurrent state, the gate's projection, the counts of work and memory, and the output projection. A kind
// supplies map(), the features of queries and keys, and may override finish(), what becomes of the core's
// output. The core's equations stand in kernels/ops/linear_attention.h.
#pragma once

#include <memory>
#include <string>

#include "autograd/ops/linear_attention.h"
#include "layers/attention/projections.h"
#include "layers/attention/recurrent_state.h"

namespace headway {

struct LinearFamilyOptions {
  int64_t num_features = 0;           // F, the width of a head's rows of features
  LinearAttention::Config core = {};  // whether and how the core normalises
  ShortConvs::Options short_convs = {};
  bool has_gate = false;  // a projection x Wg^T, for finish()
};

/// ConfigError for the common keys that only a kind which shares keys between queries, or places its heads by
/// Projections::place, has.
void check_plain_heads(const AttentionConfig&);

/// Parameters query/weight, key/weight, value/weight, output/weight, those of ShortConvs, and gate/weight.
class LinearFamilyLayer : public AttentionLayer {
 public:
  /// ConfigError for common keys that need a row of attention weights.
  LinearFamilyLayer(const AttentionConfig&, const ModelShape&, const LinearFamilyOptions&);

  Variable forward(Context&, const Variable& x, const Positions&, AttentionState*) override;
  /// A RecurrentState.
  std::unique_ptr<AttentionState> make_state(int64_t batch, int64_t capacity, DType, Device) const override;
  /// Of the projections, the convolutions and the core, and the rows before and behind it that backward
  /// needs; a kind adds what its features and its finish() cost.
  Cost cost(int64_t batch, int64_t tokens, int64_t value_bytes) const override;
  int64_t cache_bytes_per_token(int64_t) const override { return 0; }
  int64_t state_bytes(int64_t value_bytes) const override;
  std::string objection_to_split(int64_t segment_length) const override {
    return projections_.short_convs().objection_to_split(segment_length);
  }

 protected:
  /// query [B,T,H,Dh], key and value [B,T,K,Dh] as they are projected -> the core's inputs q, k [B,T,H,F], v
  /// [B,T,H,Dh]; the state is the caller's to add. past: what the kind keeps of earlier tokens, or null.
  virtual LinearInputs map(Context&, const QueryKeyValue& heads, const Positions&, RecurrentState* past) = 0;
  /// o [B,T,H,Dh] of the core -> [B,T,H Dh] for the output projection. gate [B,T,H Dh]: x Wg^T, or undefined.
  virtual Variable finish(Context& ctx, const Variable& o, const Variable& gate) const;

  const AttentionConfig& common_config() const { return *config_; }
  const ModelShape& shape() const { return shape_; }
  const Projections& projections() const { return projections_; }
  const LinearLayer& output() const { return output_; }
  int64_t width() const { return config_->num_heads * config_->head_dim; }
  bool has_gate() const { return gate_ != nullptr; }

 private:
  std::unique_ptr<AttentionConfig> config_;
  ModelShape shape_;
  LinearFamilyOptions options_;
  Projections projections_;
  std::unique_ptr<LinearLayer> gate_;
  LinearLayer output_;
};

/// The base of a kind with this config.
template <class Config>
class LinearFamily : public LinearFamilyLayer {
 public:
  LinearFamily(const Config& config, const ModelShape& shape, const LinearFamilyOptions& options)
      : LinearFamilyLayer(config, shape, options) {}

 protected:
  const Config& config() const { return static_cast<const Config&>(common_config()); }
};

}  // namespace headway
