// NaLaFormer (arXiv 2506.21137) as a causal layer: linear attention whose feature maps keep the norms that a
// normalised linear attention would cancel. The paper's language models put the map into other linear layers;
// this is the map with a prefix sum as its normaliser.
//
//   q, k, v = short convolutions of x Wq^T, x Wk^T, x Wv^T, SiLU on v
//   fq, fk  = feature maps: kernels/ops/norm_aware_map.h
//   o_t     = sum_{j<=t} <rq_t, rk_j> v_j / (sum_{j<=t} <fq_t, fk_j> + eps),  rq, rk = fq, fk, rotated or not
//   y       = (norm(concat(o)) * silu(x Wg^T)) Wo^T

#include <cmath>
#include <memory>
#include <string>

#include "autograd/ops/activation.h"
#include "autograd/ops/norm_aware_map.h"
#include "autograd/ops/reshape.h"
#include "autograd/ops/rope.h"
#include "layers/attention/linear_family.h"
#include "layers/norm.h"

namespace headway {
namespace {

struct NalaformerConfig : AttentionConfigOf<NalaformerConfig> {
  std::string feature_map = "cosine";
  double lambda = 3;
  bool lambda_learnable = false;
  double tau = 0.5;
  double qnorm_scale = 1;
  std::string phase = "tanh_direction";
  bool q_rescale = false;
  std::string key_norm = "none";
  std::string state = "sum";
  std::string normaliser = "sum";
  double normaliser_eps = 1e-6;
  double direction_eps = 1e-12;
  int64_t short_conv = 4;
  std::string out_norm = "layernorm";
  double norm_eps = 1e-5;
  std::string gate = "silu";

  NalaformerConfig() { rope = false; }

  void describe_kind(FieldVisitor& v) override {
    v("feature_map", feature_map, "cosine phases (the paper) or a split by sign (the authors' code)",
      {.choices = {"cosine", "relu_split"}});
    v("lambda", lambda,
      "power of the keys, scale of that of the queries; above 2 for finite gradients at zero",
      {.min = 1e-3, .max = 100});
    v("lambda_learnable", lambda_learnable, "lambda is learned, one per layer, and starts at its value");
    v("tau", tau, "a query's power is lambda (tau + tanh(qnorm_scale |q|))", {.min = 0, .max = 100});
    v("qnorm_scale", qnorm_scale, "1, or 1/sqrt(head_dim), where tanh does not saturate",
      {.min = 1e-6, .max = 1e6});
    v("phase", phase, "pi/4 times: tanh(direction), direction, tanh(vector), or zero; cosine map only",
      {.choices = {"tanh_direction", "direction", "tanh_raw", "none"}});
    v("q_rescale", q_rescale, "multiply the query's direction by sqrt(head_dim) under the power");
    v("key_norm", key_norm, "unit: the key's direction under the power", {.choices = {"none", "unit"}});
    v("state", state, "sum: no decay", {.choices = {"sum"}});
    v("normaliser", normaliser, "divide by the sum of the weights, or not", {.choices = {"sum", "none"}});
    v("normaliser_eps", normaliser_eps, "added to that sum", {.min = 0, .max = 1});
    v("direction_eps", direction_eps, "added to the sum of squares of each query and key",
      {.min = 1e-30, .max = 1});
    describe_short_conv(v, short_conv);
    v("out_norm", out_norm, "LayerNorm over all heads, or RMSNorm within each",
      {.choices = {"layernorm", "rms_head"}});
    v("norm_eps", norm_eps, "added to the variance or mean square", {.min = 0, .max = 1});
    v("gate", gate, "the normalised output times silu(x Wg^T), or as it is", {.choices = {"silu", "none"}});
  }
  void check() const override { check_plain_heads(*this); }
};

class NalaformerLayer final : public LinearFamily<NalaformerConfig> {
 public:
  NalaformerLayer(const NalaformerConfig& config, const ModelShape& shape)
      : LinearFamily(
            config, shape,
            {.num_features = 2 * config.head_dim,
             .core = {.normalise = config.normaliser == "sum", .eps = config.normaliser_eps},
             .short_convs = {.taps = config.short_conv, .silu_values = true},  // SiLU is the convolutions'
             .has_gate = config.gate == "silu"}),
        norm_(over_all_heads() ? NormStyle::layer : NormStyle::rms,
              over_all_heads() ? width() : config.head_dim, config.norm_eps, true) {
    if (config.lambda_learnable)
      lambda_ = &add_parameter("lambda", {1}, Init::constant(config.lambda), false);
    add_child("norm", norm_);
  }

  Cost cost(int64_t batch, int64_t tokens, int64_t value_bytes) const override {
    Cost cost = LinearFamily::cost(batch, tokens, value_bytes);
    // features, rotated features, the output's norm, its product with the gate
    const int64_t saved = 4 + (config().rope ? 4 : 0) + 1 + (has_gate() ? 1 : 0);
    cost.saved_bytes += static_cast<double>(batch * tokens * value_bytes * saved * width());
    return cost;
  }

 private:
  LinearInputs map(Context& ctx, const QueryKeyValue& heads, const Positions& positions,
                   RecurrentState*) override {
    const Variable lambda = lambda_ ? lambda_->variable() : Variable();
    LinearInputs inputs{.q = apply<NormAwareMap>(ctx, query_map(), heads.query, lambda),
                        .k = apply<NormAwareMap>(ctx, key_map(), heads.key, lambda),
                        .v = heads.value};
    if (!config().rope) return inputs;
    if (config().normaliser == "sum") inputs.norm_q = inputs.q, inputs.norm_k = inputs.k;
    inputs.q = rotate(ctx, inputs.q, positions);
    inputs.k = rotate(ctx, inputs.k, positions);
    return inputs;
  }
  Variable finish(Context& ctx, const Variable& o, const Variable& gate) const override {
    const Variable normed =
        over_all_heads() ? norm_.forward(ctx, merge_heads(ctx, o)) : merge_heads(ctx, norm_.forward(ctx, o));
    return gate.defined() ? apply<SwiGlu>(ctx, {}, gate, normed) : normed;
  }

  bool over_all_heads() const { return config().out_norm == "layernorm"; }

  NormAwareMapSettings map_settings() const {
    using Settings = NormAwareMapSettings;
    return {.map = config().feature_map == "cosine" ? Settings::Map::cosine : Settings::Map::relu_split,
            .phase = config().phase == "tanh_direction" ? Settings::Phase::tanh_direction
                     : config().phase == "direction"    ? Settings::Phase::direction
                     : config().phase == "tanh_raw"     ? Settings::Phase::tanh_row
                                                        : Settings::Phase::none,
            .lambda = config().lambda,
            .tau = config().tau,
            .norm_scale = config().qnorm_scale,
            .eps = config().direction_eps};
  }
  NormAwareMapSettings query_map() const {
    NormAwareMapSettings settings = map_settings();
    settings.base = NormAwareMapSettings::Base::direction;
    settings.power_from_norm = true;
    if (config().q_rescale) settings.direction_scale = std::sqrt(static_cast<double>(config().head_dim));
    return settings;
  }
  NormAwareMapSettings key_map() const {
    NormAwareMapSettings settings = map_settings();
    if (config().key_norm == "unit") settings.base = NormAwareMapSettings::Base::direction;
    return settings;
  }

  /// Each half of the features is rotated by itself.
  Variable rotate(Context& ctx, const Variable& features, const Positions& positions) const {
    const auto width = static_cast<int64_t>(config().rope_fraction * static_cast<double>(config().head_dim));
    const Shape halves{features.size(0), features.size(1), 2 * config().num_heads, config().head_dim};
    const Variable rotated =
        apply<Rope>(ctx, {}, reshape(ctx, features, halves),
                    positions.rope(config().rope_theta, width, features.value().dtype(), ctx.stream));
    return reshape(ctx, rotated, features.shape());
  }
  NormLayer norm_;
  Parameter* lambda_ = nullptr;
};

HEADWAY_ATTENTION(nalaformer, "NaLaFormer: linear attention with norm-aware feature maps", "arXiv 2506.21137",
                  NalaformerConfig, NalaformerLayer);

}  // namespace
}  // namespace headway
