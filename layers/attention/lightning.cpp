// Lightning attention as in TransNormerLLM (arXiv 2405.17381, 2401.04658): linear attention with a fixed
// decay per head and no normaliser, an RMS norm over all heads instead, and a gate.
//
//   q, k = silu(x Wq^T), silu(x Wk^T);  v = x Wv^T        LRPE on q and k where it is on, and short
//                                                         convolutions before silu (short_conv.h)
//   o_t  = sum_{j<=t} exp(-s_h (t - j)) <q_t, k_j> v_j
//   y    = (o / sqrt(mean(o^2) + eps) * act(x Wg^T)) Wo^T,  the mean over all heads of a token
//
// The slopes s_h are those of the authors' code, which the printed formula (decay = linear) garbles.

#include <cmath>
#include <map>
#include <memory>
#include <string>
#include <vector>

#include "autograd/ops/activation.h"
#include "autograd/ops/gated_norm.h"
#include "autograd/ops/linear_attention.h"
#include "autograd/ops/lrpe.h"
#include "autograd/ops/reshape.h"
#include "layers/attention/linear_family.h"
#include "layers/attention/recurrent_state.h"
#include "layers/attention/short_conv.h"
#include "layers/linear.h"

namespace headway {
namespace {

struct LightningConfig : AttentionConfigOf<LightningConfig> {
  std::string decay = "alibi";
  std::string qk_activation = "silu";
  std::string v_activation = "none";
  std::string lrpe = "none";
  std::string gate = "linear";
  std::string out_norm = "srms";
  double norm_eps = 1e-6;
  int64_t short_conv = 0;

  LightningConfig() { rope = false; }

  void describe_kind(FieldVisitor& v) override {
    v("decay", decay, "ALiBi slopes, weaker in later layers or alike in all, or the paper's printed formula",
      {.choices = {"alibi", "alibi_flat", "linear"}});
    v("qk_activation", qk_activation, "on queries and keys", {.choices = {"silu", "none"}});
    v("v_activation", v_activation, "on values (MiniMax-01: silu)", {.choices = {"none", "silu"}});
    v("lrpe", lrpe, "learned relative positions (LRPE-d) on queries and keys",
      {.choices = {"none", "first_layer", "all"}});
    v("gate", gate, "the normalised output times x Wg^T, its sigmoid, or nothing",
      {.choices = {"linear", "sigmoid", "none"}});
    v("out_norm", out_norm, "RMS norm over all heads, without or with a learned gain",
      {.choices = {"srms", "rms"}});
    v("norm_eps", norm_eps, "added to the mean square", {.min = 1e-30, .max = 1});
    describe_short_conv(v, short_conv);
  }
  /// ConfigError for keys that this kind does not have.
  void check() const {
    check_linear_family(*this);
    HEADWAY_CHECK(!rope, ConfigError, "model.attention.rope = true: expected false for lightning (see lrpe)");
  }
  int64_t width() const { return num_heads * head_dim; }
};

/// 2^(-8(h+1)/H) for H a power of two; otherwise those of the next smaller power P, then every second of 2P.
double alibi_slope(int64_t h, int64_t H) {
  int64_t P = 1;
  while (2 * P <= H) P *= 2;
  const double exponent = h < P ? static_cast<double>(h + 1) / static_cast<double>(P)
                                : static_cast<double>(2 * (h - P) + 1) / static_cast<double>(2 * P);
  return std::exp2(-8 * exponent);
}

double slope(const LightningConfig& config, const ModelShape& shape, int64_t h) {
  const auto H = static_cast<double>(config.num_heads), L = static_cast<double>(shape.num_layers),
             l = static_cast<double>(shape.layer_index);
  if (config.decay == "linear") return 8 * static_cast<double>(h) / H * (1 - l / L);
  if (config.decay == "alibi_flat") return alibi_slope(h, config.num_heads);
  const double depth = shape.num_layers > 1 ? l / (L - 1) : 0;
  return alibi_slope(h, config.num_heads) * (1 - depth + 1e-5);
}

/// The norm over all heads and the gate after it.
class OutputNorm : public Module {
 public:
  OutputNorm(const LightningConfig& config)
      : settings_{.activation = config.gate == "sigmoid" ? GateActivation::sigmoid : GateActivation::identity,
                  .eps = config.norm_eps} {
    if (config.out_norm == "rms") weight_ = &add_parameter("weight", {config.width()}, Init::ones(), false);
  }
  /// gate may be undefined.
  Variable forward(Context& ctx, const Variable& o, const Variable& gate) const {
    return apply<GatedNorm>(ctx, settings_, o, weight_ ? weight_->variable() : Variable(), gate);
  }

 private:
  GatedNorm::Config settings_;
  Parameter* weight_ = nullptr;
};

/// Angles theta [H,Dh]; they start at 10000^(-2m/d) with m over all d channels of all heads.
class LrpeAngles : public Module {
 public:
  LrpeAngles(int64_t num_heads, int64_t head_dim)
      : theta_(add_parameter(
            "theta", {num_heads, head_dim},
            Init::geometric(std::pow(10000.0, -2.0 / static_cast<double>(num_heads * head_dim))), false)) {
    theta_.keeps_precision = true;
  }
  Variable forward(Context& ctx, const Variable& heads, const Positions& positions) const {
    return apply<Lrpe>(ctx, {.offset = positions.offset}, heads, theta_.variable());
  }

 private:
  Parameter& theta_;
};

class LightningLayer final : public AttentionLayer {
 public:
  LightningLayer(const LightningConfig& config, const ModelShape& shape)
      : config_(checked(config)),
        shape_(shape),
        query_(shape.model_dim, config.width(), Init::normal(shape.init_std), false),
        key_(shape.model_dim, config.width(), Init::normal(shape.init_std), false),
        value_(shape.model_dim, config.width(), Init::normal(shape.init_std), false),
        short_convs_({.taps = config.short_conv, .query_dim = config.width(), .key_dim = config.width()}),
        norm_(config),
        output_(config.width(), shape.model_dim, Init::normal(shape.output_init_std), false) {
    add_child("query", query_);
    add_child("key", key_);
    add_child("value", value_);
    add_child("", short_convs_);
    if (config.gate != "none") {
      gate_ =
          std::make_unique<LinearLayer>(shape.model_dim, config.width(), Init::normal(shape.init_std), false);
      add_child("gate", *gate_);
    }
    if (config.lrpe == "all" || (config.lrpe == "first_layer" && shape.layer_index == 0)) {
      lrpe_ = std::make_unique<LrpeAngles>(config.num_heads, config.head_dim);
      add_child("lrpe", *lrpe_);
    }
    add_child("norm", norm_);
    add_child("output", output_);
  }

  Variable forward(Context& ctx, const Variable& x, const Positions& positions,
                   AttentionState* state) override {
    auto* const past = static_cast<RecurrentState*>(state);
    const bool activate = config_.qk_activation == "silu";
    const QueryKeyValue rows =
        short_convs_.forward(ctx, {query_.forward(ctx, x), key_.forward(ctx, x), value_.forward(ctx, x)},
                             past ? &past->convolutions : nullptr);
    LinearInputs inputs{.q = placed(ctx, heads(ctx, rows.query, activate), positions),
                        .k = placed(ctx, heads(ctx, rows.key, activate), positions),
                        .v = heads(ctx, rows.value, config_.v_activation == "silu"),
                        .slope = slopes(x.value().dtype(), ctx.stream)};
    if (past) inputs.state = past->matrix;
    const auto [o, matrix] = linear_attention(ctx, inputs, {});
    if (past) past->matrix = matrix;
    const Variable merged = reshape(ctx, o, {o.size(0), o.size(1), config_.width()});
    return output_.forward(ctx, norm_.forward(ctx, merged, gate_ ? gate_->forward(ctx, x) : Variable()));
  }

  std::unique_ptr<AttentionState> make_state(int64_t, int64_t, DType, Device) const override {
    auto state = std::make_unique<RecurrentState>();
    state->convolutions = short_convs_.make_history();
    return state;
  }

  Cost cost(int64_t batch, int64_t tokens, int64_t value_bytes) const override {
    const auto rows = static_cast<double>(batch * tokens), D = static_cast<double>(shape_.model_dim);
    const auto width = static_cast<double>(config_.width()), H = static_cast<double>(config_.num_heads);
    const double projections =
        2 * rows * D * width * (gate_ ? 5 : 4) + rows * short_convs_.forward_flop_per_token();
    Cost cost =
        linear_core_cost(rows, H, static_cast<double>(features()), static_cast<double>(config_.head_dim));
    cost.add({projections, 2 * projections});
    // projected rows, activated rows, rotated rows of twice the width, output, gate and their product,
    // convolved rows
    const double saved = 3 + (config_.qk_activation == "silu" ? 2 : 0) +
                         (config_.v_activation == "silu" ? 1 : 0) + (lrpe_ ? 4 : 0) + 2 + (gate_ ? 1 : 0) +
                         (config_.short_conv > 0 ? 3 : 0);
    cost.saved_bytes = rows * (static_cast<double>(value_bytes) * (D + saved * width) + 4);
    return cost;
  }

  int64_t cache_bytes_per_token(int64_t) const override { return 0; }
  int64_t state_bytes(int64_t value_bytes) const override {
    return linear_state_bytes(config_.num_heads, features(), config_.head_dim, value_bytes) +
           short_convs_.state_bytes(value_bytes);
  }

 private:
  static const LightningConfig& checked(const LightningConfig& config) {
    config.check();
    return config;
  }
  int64_t features() const { return config_.head_dim * (lrpe_ ? 2 : 1); }

  Variable heads(Context& ctx, const Variable& rows, bool silu) const {
    const Variable split =
        reshape(ctx, rows, {rows.size(0), rows.size(1), config_.num_heads, config_.head_dim});
    return silu ? apply<Silu>(ctx, {}, split) : split;
  }
  Variable placed(Context& ctx, const Variable& heads, const Positions& positions) const {
    return lrpe_ ? lrpe_->forward(ctx, heads, positions) : heads;
  }
  /// [H] in the accumulator's dtype.
  const Tensor& slopes(DType dtype, Stream& stream) const {
    Tensor& result = slopes_[accumulator_of(dtype)];
    if (result && result.device() == stream.device()) return result;
    dispatch<double, float>(accumulator_of(dtype), "slopes", [&]<class T>() {
      std::vector<T> values;
      for (int64_t h = 0; h < config_.num_heads; ++h)
        values.push_back(static_cast<T>(slope(config_, shape_, h)));
      result = Tensor::from<T>(values, {config_.num_heads}, stream);
    });
    return result;
  }

  LightningConfig config_;
  ModelShape shape_;
  LinearLayer query_, key_, value_;
  ShortConvs short_convs_;
  std::unique_ptr<LinearLayer> gate_;
  std::unique_ptr<LrpeAngles> lrpe_;
  OutputNorm norm_;
  LinearLayer output_;
  mutable std::map<DType, Tensor> slopes_;
};

HEADWAY_ATTENTION(lightning, "Lightning attention: linear attention with decay, a norm and a gate",
                  "arXiv 2405.17381, 2401.04658", LightningConfig, LightningLayer);

}  // namespace
}  // namespace headway
