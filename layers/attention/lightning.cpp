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
#include "autograd/ops/lrpe.h"
#include "layers/attention/linear_family.h"

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
  void check() const override {
    check_plain_heads(*this);
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
    return apply<Lrpe>(ctx, {.positions = positions.of_tokens()}, heads, theta_.variable());
  }

 private:
  Parameter& theta_;
};

class LightningLayer final : public LinearFamily<LightningConfig> {
 public:
  LightningLayer(const LightningConfig& config, const ModelShape& shape)
      : LinearFamily(config, shape,
                     {.num_features = config.head_dim * (has_lrpe(config, shape) ? 2 : 1),
                      .short_convs = {.taps = config.short_conv},
                      .has_gate = config.gate != "none"}),
        norm_(config) {
    if (has_lrpe(config, shape)) {
      lrpe_ = std::make_unique<LrpeAngles>(config.num_heads, config.head_dim);
      add_child("lrpe", *lrpe_);
    }
    add_child("norm", norm_);
  }

  Cost cost(int64_t batch, int64_t tokens, int64_t value_bytes) const override {
    Cost cost = LinearFamily::cost(batch, tokens, value_bytes);
    // activated rows, rotated rows of twice the width, the norm's product with the gate; the norm's scale
    const int64_t saved = (config().qk_activation == "silu" ? 2 : 0) +
                          (config().v_activation == "silu" ? 1 : 0) + (lrpe_ ? 4 : 0) + 1;
    cost.saved_bytes += static_cast<double>(batch * tokens * (value_bytes * saved * width() + 4));
    return cost;
  }

 private:
  static bool has_lrpe(const LightningConfig& config, const ModelShape& shape) {
    return config.lrpe == "all" || (config.lrpe == "first_layer" && shape.layer_index == 0);
  }

  LinearInputs map(Context& ctx, const QueryKeyValue& heads, const Positions& positions,
                   RecurrentState*) override {
    const auto activated = [&](const Variable& rows, const std::string& activation) {
      return activation == "silu" ? apply<Silu>(ctx, {}, rows) : rows;
    };
    const auto placed = [&](const Variable& rows) {
      return lrpe_ ? lrpe_->forward(ctx, rows, positions) : rows;
    };
    return {.q = placed(activated(heads.query, config().qk_activation)),
            .k = placed(activated(heads.key, config().qk_activation)),
            .v = activated(heads.value, config().v_activation),
            .slope = slopes(heads.query.value().dtype(), ctx.stream)};
  }
  Variable finish(Context& ctx, const Variable& o, const Variable& gate) const override {
    return norm_.forward(ctx, merge_heads(ctx, o), gate);
  }
  /// [H] in the accumulator's dtype.
  const Tensor& slopes(DType dtype, Stream& stream) const {
    Tensor& result = slopes_[accumulator_of(dtype)];
    if (result && result.device() == stream.device()) return result;
    dispatch<double, float>(accumulator_of(dtype), "slopes", [&]<class T>() {
      std::vector<T> values;
      for (int64_t h = 0; h < config().num_heads; ++h)
        values.push_back(static_cast<T>(slope(config(), shape(), h)));
      result = Tensor::from<T>(values, {config().num_heads}, stream);
    });
    return result;
  }

  std::unique_ptr<LrpeAngles> lrpe_;
  OutputNorm norm_;
  mutable std::map<DType, Tensor> slopes_;
};

HEADWAY_ATTENTION(lightning, "Lightning attention: linear attention with decay, a norm and a gate",
                  "arXiv 2405.17381, 2401.04658", LightningConfig, LightningLayer);

}  // namespace
}  // namespace headway
