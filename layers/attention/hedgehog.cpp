// Hedgehog (arXiv 2402.04347): linear attention with learned feature maps that imitate softmax attention's
// spiky weights; trained from scratch, or after attention transfer from a softmax layer.
//
//   fq, fk = map(Wq_h rope(q) + b), map(Wk_h rope(k) + b)       kernels/ops/hedgehog_map.h
//   (q, k, v after short convolutions where short_conv > 0: layers/attention/short_conv.h; keys and values
//   repeated for the queries that share them, so that every query head has maps and a state of its own)
//   o_t    = sum_{j<=t} <fq_t, fk_j> v_j / (sum_{j<=t} <fq_t, fk_j> + eps),   y = concat(o) Wo^T
//
// With transfer = true the layer is the softmax attention it is to become: that is its output, and the maps
// learn the softmax's weights through an auxiliary loss (kernels/ops/attention_transfer.h).

#include <cmath>
#include <memory>
#include <string>

#include "autograd/loss_collector.h"
#include "autograd/ops/attention_transfer.h"
#include "autograd/ops/head_linear.h"
#include "autograd/ops/hedgehog_map.h"
#include "autograd/ops/repeat_heads.h"
#include "layers/attention/linear_family.h"
#include "layers/attention/softmax_family.h"

namespace headway {
namespace {

struct HedgehogConfig : AttentionConfigOf<HedgehogConfig> {
  std::string feature_map = "softmax";
  int64_t feature_dim = 0;
  bool map_bias = false;
  double normaliser_eps = 1e-12;
  bool transfer = false;
  int64_t short_conv = 0;

  void describe_kind(FieldVisitor& v) override {
    v("feature_map", feature_map,
      "softmax of both signs (LoLCATs), exp (the paper), exp shifted per token, or one softmax of both signs",
      {.choices = {"softmax", "exp", "expmax", "joint"}});
    v("feature_dim", feature_dim, "rows of a head's map, which makes twice as many features; 0 = head_dim",
      {.min = 0, .max = 1024});
    v("map_bias", map_bias, "biases in the maps");
    v("normaliser_eps", normaliser_eps, "added to the sum of the weights", {.min = 0, .max = 1});
    v("transfer", transfer,
      "compute softmax attention and teach its weights to the maps (with train.only the maps learn alone)");
    describe_short_conv(v, short_conv);
  }
  HedgehogFeatures features() const {
    return feature_map == "softmax"  ? HedgehogFeatures::softmax
           : feature_map == "exp"    ? HedgehogFeatures::exp
           : feature_map == "expmax" ? HedgehogFeatures::expmax
                                     : HedgehogFeatures::joint;
  }
  int64_t map_rows() const { return feature_dim > 0 ? feature_dim : head_dim; }
};

/// A matrix per head, which starts as the identity, and the activation after it.
class FeatureMap : public Module {
 public:
  explicit FeatureMap(const HedgehogConfig& config)
      : features_(config.features()),
        weight_(add_parameter("weight", {config.num_heads, config.map_rows(), config.head_dim},
                              Init::identity(), true)) {
    if (!config.map_bias) return;
    bias_ = &add_parameter("bias", {config.num_heads, config.map_rows()}, Init::zeros(), false);
    bias_->keeps_precision = true;
  }
  /// [B,T,H,Dh] -> [B,T,H,2*Df], without shifts
  Variable features(Context& ctx, const Variable& heads) const {
    return apply<HedgehogFeatureMap>(ctx, {.features = features_}, heads, weight_.variable(),
                                     bias_ ? bias_->variable() : Variable());
  }
  /// [B,T,H,Dh] -> [B,T,H,Df]
  Variable project(Context& ctx, const Variable& heads) const {
    return apply<HeadLinear>(ctx, {}, heads, weight_.variable(), bias_ ? bias_->variable() : Variable());
  }
  /// [B,T,H,Df] -> [B,T,H,2*Df]
  Variable activate(Context& ctx, const Variable& u, const Tensor& shift) const {
    return apply<HedgehogMap>(ctx, {.features = features_}, u, shift);
  }

 private:
  HedgehogFeatures features_;
  Parameter& weight_;
  Parameter* bias_ = nullptr;
};

class HedgehogLayer final : public LinearFamily<HedgehogConfig> {
 public:
  HedgehogLayer(const HedgehogConfig& config, const ModelShape& shape)
      : LinearFamily(config, shape,
                     {.num_features = 2 * config.map_rows(),
                      .core = {.normalise = true, .eps = config.normaliser_eps},
                      .short_convs = {.taps = config.short_conv}}),
        query_map_(config),
        key_map_(config) {
    add_child("query_map", query_map_);
    add_child("key_map", key_map_);
  }

  Variable forward(Context& ctx, const Variable& x, const Positions& positions,
                   AttentionState* state) override {
    return config().transfer ? teacher(ctx, x, positions, static_cast<KvCache*>(state))
                             : LinearFamily::forward(ctx, x, positions, state);
  }

  std::unique_ptr<AttentionState> make_state(int64_t batch, int64_t capacity, DType dtype,
                                             Device device) const override {
    if (!config().transfer) return LinearFamily::make_state(batch, capacity, dtype, device);
    auto cache =
        std::make_unique<KvCache>(batch, capacity, config().num_kv_heads, config().head_dim, dtype, device);
    cache->convolutions = projections().short_convs().make_history();
    return cache;
  }

  Cost cost(int64_t batch, int64_t tokens, int64_t value_bytes) const override {
    const auto rows = static_cast<double>(batch * tokens);
    const auto heads = static_cast<double>(config().num_heads), Dh = static_cast<double>(config().head_dim),
               Df = static_cast<double>(config().map_rows());
    const double maps = 2 * 2 * rows * heads * Dh * Df;
    if (config().transfer) {
      const ShortConvs& convolutions = projections().short_convs();
      const double extra = maps + rows * convolutions.forward_flop_per_token();
      // The softmax layer; for the loss, scores and weights once more forward and twice backward.
      Cost cost = softmax_cost(config(), shape(), batch, tokens, value_bytes);
      const auto loss = [&](double pairs) {
        return 2 * static_cast<double>(batch) * heads * pairs * Flop{Dh + 2 * Df, Dh + 3 * 2 * Df};
      };
      cost.executed_flop += loss(executed_pairs(tokens, 0));
      cost.ideal_flop += loss(visible_pairs(tokens, 0));
      cost.add({extra, 2 * extra});
      cost.saved_bytes +=
          rows * static_cast<double>(value_bytes) * (heads * 8 * Df + convolutions.saved_values_per_token());
      return cost;
    }
    Cost cost = LinearFamily::cost(batch, tokens, value_bytes);
    cost.add({maps, 2 * maps});
    cost.saved_bytes += rows * static_cast<double>(value_bytes) * heads * 4 * Df;  // features
    return cost;
  }

  std::string objection_to_split(int64_t segment_length) const override {
    if (config().transfer) return AttentionLayer::objection_to_split(segment_length);
    if (config().features() == HedgehogFeatures::exp)
      return "whose feature_map = \"exp\" follows the largest feature so far from token to token";
    return LinearFamily::objection_to_split(segment_length);
  }

  int64_t cache_bytes_per_token(int64_t value_bytes) const override {
    return config().transfer ? 2 * config().num_kv_heads * config().head_dim * value_bytes
                             : LinearFamily::cache_bytes_per_token(value_bytes);
  }
  int64_t state_bytes(int64_t value_bytes) const override {
    return config().transfer ? projections().short_convs().state_bytes(value_bytes)
                             : LinearFamily::state_bytes(value_bytes);
  }

 private:
  LinearInputs map(Context& ctx, const QueryKeyValue& projected, const Positions& positions,
                   RecurrentState* past) override {
    const QueryKeyValue heads = projections().place(ctx, projected, positions);
    const Variable keys = for_each_query_head(ctx, heads.key), values = for_each_query_head(ctx, heads.value);
    if (config().features() != HedgehogFeatures::exp)
      return {.q = query_map_.features(ctx, heads.query), .k = key_map_.features(ctx, keys), .v = values};
    const Variable query = query_map_.project(ctx, heads.query), key = key_map_.project(ctx, keys);
    const HedgehogShifts shifts = hedgehog_shifts(ctx, query.value(), key.value(),
                                                  past ? past->log_scale : Tensor(), config().normaliser_eps);
    if (past) past->log_scale = shifts.after;
    return {.q = query_map_.activate(ctx, query, shifts.query),
            .k = key_map_.activate(ctx, key, shifts.key),
            .v = values,
            .log_decay = shifts.log_decay,
            .token_eps = shifts.token_eps};
  }

  Variable for_each_query_head(Context& ctx, const Variable& heads) const {
    return repeat_heads(ctx, heads, config().num_heads);
  }

  Variable teacher(Context& ctx, const Variable& x, const Positions& positions, KvCache* cache) {
    QueryKeyValue heads = projections().forward(ctx, x, positions, cache ? &cache->convolutions : nullptr);
    if (ctx.auxiliary && ctx.training) {
      const Tensor query = heads.query.value(),
                   key = for_each_query_head(ctx, Variable(heads.key.value())).value();
      const double scale = 1 / std::sqrt(static_cast<double>(config().head_dim));
      ctx.auxiliary->add({.name = "transfer_divergence",
                          .loss = apply<AttentionTransfer>(ctx, {.scale = scale}, query, key,
                                                           query_map_.features(ctx, Variable(query)),
                                                           key_map_.features(ctx, Variable(key))),
                          .weight = 1});
    }
    const int64_t query_offset = append_to_cache(ctx, heads, cache);
    const Variable y = causal_attention(ctx, {.q = heads.query, .k = heads.key, .v = heads.value},
                                        {.query_offset = query_offset});
    return output().forward(ctx, merge_heads(ctx, y));
  }

  FeatureMap query_map_, key_map_;
};

HEADWAY_ATTENTION(hedgehog, "Hedgehog: linear attention with learned feature maps that mimic softmax",
                  "arXiv 2402.04347, 2410.10254", HedgehogConfig, HedgehogLayer);

}  // namespace
}  // namespace headway
