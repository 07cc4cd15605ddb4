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
#include "autograd/ops/linear_attention.h"
#include "autograd/ops/norm_aware_map.h"
#include "autograd/ops/reshape.h"
#include "autograd/ops/rope.h"
#include "layers/attention/linear_family.h"
#include "layers/attention/recurrent_state.h"
#include "layers/attention/short_conv.h"
#include "layers/linear.h"
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
  int64_t width() const { return num_heads * head_dim; }
};

class NalaformerLayer final : public AttentionLayer {
 public:
  NalaformerLayer(const NalaformerConfig& config, const ModelShape& shape)
      : config_(checked(config)),
        shape_(shape),
        query_(shape.model_dim, config.width(), Init::normal(shape.init_std), false),
        key_(shape.model_dim, config.width(), Init::normal(shape.init_std), false),
        value_(shape.model_dim, config.width(), Init::normal(shape.init_std), false),
        // Without a convolution there is no SiLU either.
        short_convs_({.taps = config.short_conv,
                      .query_dim = config.width(),
                      .key_dim = config.width(),
                      .silu_values = true}),
        norm_(over_all_heads() ? NormStyle::layer : NormStyle::rms,
              over_all_heads() ? config.width() : config.head_dim, config.norm_eps, true),
        output_(config.width(), shape.model_dim, Init::normal(shape.output_init_std), false) {
    add_child("query", query_);
    add_child("key", key_);
    add_child("value", value_);
    add_child("", short_convs_);
    if (config_.lambda_learnable)
      lambda_ = &add_parameter("lambda", {1}, Init::constant(config_.lambda), false);
    if (config_.gate == "silu") {
      gate_ = std::make_unique<LinearLayer>(shape.model_dim, config_.width(), Init::normal(shape.init_std),
                                            false);
      add_child("gate", *gate_);
    }
    add_child("norm", norm_);
    add_child("output", output_);
  }

  Variable forward(Context& ctx, const Variable& x, const Positions& positions,
                   AttentionState* state) override {
    auto* const past = static_cast<RecurrentState*>(state);
    const QueryKeyValue rows =
        short_convs_.forward(ctx, {query_.forward(ctx, x), key_.forward(ctx, x), value_.forward(ctx, x)},
                             past ? &past->convolutions : nullptr);
    const Variable lambda = lambda_ ? lambda_->variable() : Variable();
    LinearInputs inputs{.q = apply<NormAwareMap>(ctx, query_map(), heads(ctx, rows.query), lambda),
                        .k = apply<NormAwareMap>(ctx, key_map(), heads(ctx, rows.key), lambda),
                        .v = heads(ctx, rows.value)};
    const bool normalise = config_.normaliser == "sum";
    if (config_.rope) {
      if (normalise) inputs.norm_q = inputs.q, inputs.norm_k = inputs.k;
      inputs.q = rotate(ctx, inputs.q, positions);
      inputs.k = rotate(ctx, inputs.k, positions);
    }
    if (past) inputs.state = past->matrix;
    const auto [o, matrix] =
        linear_attention(ctx, inputs, {.normalise = normalise, .eps = config_.normaliser_eps});
    if (past) past->matrix = matrix;
    return output_.forward(ctx, gated(ctx, x, normed(ctx, o)));
  }

  std::unique_ptr<AttentionState> make_state(int64_t, int64_t, DType, Device) const override {
    auto state = std::make_unique<RecurrentState>();
    state->convolutions = short_convs_.make_history();
    return state;
  }

  Cost cost(int64_t batch, int64_t tokens, int64_t value_bytes) const override {
    const auto rows = static_cast<double>(batch * tokens), D = static_cast<double>(shape_.model_dim);
    const auto width = static_cast<double>(config_.width()), Dh = static_cast<double>(config_.head_dim);
    const auto heads = static_cast<double>(config_.num_heads);
    const double projections = 2 * rows * D * width * (gate_ ? 5 : 4);
    const double convolutions = rows * short_convs_.forward_flop_per_token();
    Cost cost = linear_core_cost(rows, heads, 2 * Dh, Dh);
    cost.add({projections + convolutions, 2 * (projections + convolutions)});
    // projected rows, convolved rows, features, rotated features, output, its norm, gate and their product
    const double saved =
        3 + (config_.short_conv > 0 ? 3 : 0) + 4 + (config_.rope ? 4 : 0) + 2 + (gate_ ? 2 : 0);
    cost.saved_bytes = rows * static_cast<double>(value_bytes) * (D + saved * width) + rows * heads * 4;
    return cost;
  }

  int64_t cache_bytes_per_token(int64_t) const override { return 0; }
  int64_t state_bytes(int64_t value_bytes) const override {
    const int64_t columns = config_.head_dim + (config_.normaliser == "sum" ? 1 : 0);
    const int64_t matrix = linear_state_bytes(config_.num_heads, 2 * config_.head_dim, columns, value_bytes);
    return matrix + short_convs_.state_bytes(value_bytes);
  }

 private:
  static const NalaformerConfig& checked(const NalaformerConfig& config) {
    check_linear_family(config);
    return config;
  }
  bool over_all_heads() const { return config_.out_norm == "layernorm"; }

  NormAwareMapSettings map_settings() const {
    using Settings = NormAwareMapSettings;
    return {.map = config_.feature_map == "cosine" ? Settings::Map::cosine : Settings::Map::relu_split,
            .phase = config_.phase == "tanh_direction" ? Settings::Phase::tanh_direction
                     : config_.phase == "direction"    ? Settings::Phase::direction
                     : config_.phase == "tanh_raw"     ? Settings::Phase::tanh_row
                                                       : Settings::Phase::none,
            .lambda = config_.lambda,
            .tau = config_.tau,
            .norm_scale = config_.qnorm_scale,
            .eps = config_.direction_eps};
  }
  NormAwareMapSettings query_map() const {
    NormAwareMapSettings settings = map_settings();
    settings.base = NormAwareMapSettings::Base::direction;
    settings.power_from_norm = true;
    if (config_.q_rescale) settings.direction_scale = std::sqrt(static_cast<double>(config_.head_dim));
    return settings;
  }
  NormAwareMapSettings key_map() const {
    NormAwareMapSettings settings = map_settings();
    if (config_.key_norm == "unit") settings.base = NormAwareMapSettings::Base::direction;
    return settings;
  }

  Variable heads(Context& ctx, const Variable& rows) const {
    return reshape(ctx, rows, {rows.size(0), rows.size(1), config_.num_heads, config_.head_dim});
  }
  /// Each half of the features is rotated by itself.
  Variable rotate(Context& ctx, const Variable& features, const Positions& positions) const {
    const auto width = static_cast<int64_t>(config_.rope_fraction * static_cast<double>(config_.head_dim));
    const Shape halves{features.size(0), features.size(1), 2 * config_.num_heads, config_.head_dim};
    const Variable rotated =
        apply<Rope>(ctx, {}, reshape(ctx, features, halves),
                    positions.rope(config_.rope_theta, width, features.value().dtype(), ctx.stream));
    return reshape(ctx, rotated, features.shape());
  }
  /// o [B,T,H,Dh] -> [B,T,H*Dh]
  Variable normed(Context& ctx, const Variable& o) const {
    const Shape merged{o.size(0), o.size(1), config_.width()};
    if (over_all_heads()) return norm_.forward(ctx, reshape(ctx, o, merged));
    return reshape(ctx, norm_.forward(ctx, o), merged);
  }
  Variable gated(Context& ctx, const Variable& x, const Variable& y) const {
    return gate_ ? apply<SwiGlu>(ctx, {}, gate_->forward(ctx, x), y) : y;
  }

  NalaformerConfig config_;
  ModelShape shape_;
  LinearLayer query_, key_, value_;
  ShortConvs short_convs_;
  std::unique_ptr<LinearLayer> gate_;
  NormLayer norm_;
  LinearLayer output_;
  Parameter* lambda_ = nullptr;
};

HEADWAY_ATTENTION(nalaformer, "NaLaFormer: linear attention with norm-aware feature maps", "arXiv 2506.21137",
                  NalaformerConfig, NalaformerLayer);

}  // namespace
}  // namespace headway
