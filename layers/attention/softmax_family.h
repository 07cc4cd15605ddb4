// What the kinds of the softmax family share: projections, short convolutions, QK-norm, RoPE, the cache of
// keys and values, the counts of work and memory, and the output projection. A kind overrides attend():
//
//   struct SoftCapConfig : AttentionConfigOf<SoftCapConfig> { double cap = 50; ... };
//   class SoftCapLayer final : public SoftmaxFamily<SoftCapConfig> {
//     using SoftmaxFamily::SoftmaxFamily;
//     Variable attend(Context& ctx, const Variable&, SoftmaxInputs inputs, int64_t query_offset) override {
//       return softmax<attention::SoftCap>(ctx, inputs, {...}, query_offset);
//     }
//   };
#pragma once

#include <memory>

#include "autograd/ops/softmax_attention.h"
#include "layers/attention/causal_attention.h"
#include "layers/attention/kv_cache.h"
#include "layers/attention/projections.h"
#include "layers/attention/softmax_cost.h"

namespace headway {

/// Appends the new keys and values to the cache, where there is one, and puts all of its own in their place.
/// Returns the position of the first new token.
int64_t append_to_cache(Context&, QueryKeyValue&, KvCache* cache);

/// Parameters query/weight, key/weight, value/weight and output/weight (and /bias), query_norm/weight,
/// key_norm/weight, and those of ShortConvs.
class SoftmaxFamilyLayer : public AttentionLayer {
 public:
  SoftmaxFamilyLayer(const AttentionConfig&, const ModelShape&, const ShortConvs::Options& = {});

  Variable forward(Context&, const Variable& x, const Positions&, AttentionState*) override;
  /// A KvCache.
  std::unique_ptr<AttentionState> make_state(int64_t batch, int64_t capacity, DType, Device) const override;
  /// Of attention over the visible keys, the projections and the convolutions; a kind adds what it adds.
  Cost cost(int64_t batch, int64_t tokens, int64_t value_bytes) const override;
  int64_t cache_bytes_per_token(int64_t value_bytes) const override;
  int64_t state_bytes(int64_t value_bytes) const override;

 protected:
  /// inputs: q [B,T,H,Dh] of the tokens of x [B,T,D], k and v [B,Tk,K,Dh] of all tokens so far, of which
  /// query_offset came before x. The slots of the variant are the kind's to fill. Returns [B,T,H,Dh]; by
  /// default causal().
  virtual Variable attend(Context&, const Variable& x, SoftmaxInputs inputs, int64_t query_offset);
  /// Heads of the tokens of x, normalised and rotated. past: the cache before them, or null.
  virtual QueryKeyValue heads(Context&, const Variable& x, const Positions&, KvCache* past);

  /// Softmax attention of variant V, with the dropout of the recipe.
  template <class V>
  Variable softmax(Context& ctx, const SoftmaxInputs& inputs, const typename V::Params& params,
                   int64_t query_offset) const {
    return softmax_attention<V>(
        ctx, inputs, {.params = params, .query_offset = query_offset, .dropout = config_->dropout});
  }
  /// Without a variant of its own: plain, in a window, or with a sink, as the recipe and the inputs say.
  Variable causal(Context& ctx, const SoftmaxInputs& inputs, int64_t query_offset) const {
    return causal_attention(
        ctx, inputs, {.window = config_->window, .dropout = config_->dropout, .query_offset = query_offset});
  }
  int window() const { return static_cast<int>(config_->window); }

  const AttentionConfig& common_config() const { return *config_; }
  const ModelShape& shape() const { return shape_; }
  const Projections& projections() const { return projections_; }
  const LinearLayer& output() const { return output_; }

 private:
  std::unique_ptr<AttentionConfig> config_;
  ModelShape shape_;
  Projections projections_;
  LinearLayer output_;
};

/// The base of a kind with this config.
template <class Config>
class SoftmaxFamily : public SoftmaxFamilyLayer {
 public:
  SoftmaxFamily(const Config& config, const ModelShape& shape, const ShortConvs::Options& short_convs = {})
      : SoftmaxFamilyLayer(config, shape, short_convs) {}

 protected:
  const Config& config() const { return static_cast<const Config&>(common_config()); }
};

}  // namespace headway
