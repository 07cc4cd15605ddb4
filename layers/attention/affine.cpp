// Affine-scaled attention (arXiv 2602.23057): each head's softmax weights are scaled and shifted per token,
//
//   O_i = alpha_i Y_i + (mu - alpha_i) / N_i * (sum of the visible values),   alpha = act(x Wa^T)
//
// mu is a running mean of alpha per head, updated once per step over all tokens of all ranks and constant for
// gradients. The mask applies to the shift as well: the paper does not say so, but without it a row would
// read the future.

#include "autograd/apply.h"
#include "autograd/ops/affine_scale.h"
#include "core/comm/communicator.h"
#include "core/io/archive.h"
#include "kernels/attention/variants/row_affine.h"
#include "kernels/attention/variants/row_scaled.h"
#include "layers/attention/attention_gate.h"
#include "layers/attention/health.h"
#include "layers/attention/softmax_family.h"

namespace headway {
namespace {

struct AffineConfig : AttentionConfigOf<AffineConfig> {
  std::string affine_act = "lin_clip";
  std::string affine_n_mode = "fixed";
  int64_t affine_n_fixed = 64;
  bool affine_beta = true;
  bool affine_bias = false;
  std::string affine_init = "normal";
  double affine_ema_rho = 0.9;
  double affine_ema_init = 0;
  std::string affine_ema_scope = "head";
  std::string affine_ema_use = "prev";
  bool affine_ema_stopgrad = true;
  GateKeys gate{.gate_position = "none"};

  void describe_kind(FieldVisitor& v) override {
    v("affine_act", affine_act, "scale from its score: 0.1 z + 0.5 clipped to 0..1, or the logistic function",
      {.choices = {"lin_clip", "sigmoid"}});
    v("affine_n_mode", affine_n_mode,
      "divisor of the shift: a constant, the keys a token sees, or all keys (which depends on the batch)",
      {.choices = {"fixed", "visible", "seqlen"}});
    v("affine_n_fixed", affine_n_fixed, "the constant: the context length trained with",
      {.min = 1, .max = 1e9});
    v("affine_beta", affine_beta, "shift the weights as well as scale them");
    v("affine_bias", affine_bias, "bias of the scale's projection");
    v("affine_init", affine_init, "start of the scale's projection; zero: every scale is 0.5",
      {.choices = {"normal", "zero"}});
    v("affine_ema_init", affine_ema_init, "running mean before the first step", {.min = 0, .max = 1});
    v("affine_ema_rho", affine_ema_rho, "share of the running mean that a step keeps", {.min = 0, .max = 1});
    v("affine_ema_scope", affine_ema_scope, "a running mean per head", {.choices = {"head"}});
    v("affine_ema_use", affine_ema_use, "a step uses the mean from before it", {.choices = {"prev"}});
    v("affine_ema_stopgrad", affine_ema_stopgrad,
      "no gradient through the running mean; only true is offered");
    gate.describe(v, {"none", "g1"});
  }
  void check() const override {
    HEADWAY_CHECK(
        affine_ema_stopgrad, ConfigError,
        "model.attention.affine_ema_stopgrad = false: expected true, the running mean is a constant");
  }
  bool has_gate() const { return gate.gate_position != "none"; }
};

class AffineLayer final : public SoftmaxFamily<AffineConfig> {
 public:
  AffineLayer(const AffineConfig& config, const ModelShape& shape)
      : SoftmaxFamily(config, shape),
        scores_(shape.model_dim, config.num_heads,
                config.affine_init == "zero" ? Init::zeros() : Init::normal(shape.init_std),
                config.affine_bias) {
    add_child("affine", scores_);
    if (!config.has_gate()) return;
    gate_ = std::make_unique<AttentionGate>(config.gate, config, shape.model_dim, shape.init_std);
    add_child("gate", *gate_);
  }

  /// mu <- rho mu + (1 - rho) mean of alpha over the step's tokens of all ranks.
  void after_step(Context& ctx, Communicator& comm, const FinishedStep& step) override {
    comm.all_reduce(alpha_sums_, Reduce::sum, ctx.stream);
    update_running_mean(mean_, alpha_sums_, config().affine_ema_rho, step.num_positions, step.grad_scale,
                        ctx.stream);
  }

  void save_buffers(ArchiveWriter& archive, std::string_view prefix) const override {
    archive.tensor(join_path(prefix, "running_mean"), mean_);
  }
  void load_buffers(ArchiveReader& archive, std::string_view prefix, Stream& stream) override {
    archive.tensor(join_path(prefix, "running_mean"), mean_, stream);
  }
  void make_buffers(DType dtype, Stream& stream) override {
    dispatch<double, float>(dtype, "running_mean", [&]<class T>() {
      const std::vector<T> start(static_cast<size_t>(config().num_heads),
                                 static_cast<T>(config().affine_ema_init));
      mean_ = Tensor::from<T>(start, {config().num_heads}, stream);
    });
    alpha_sums_ = Tensor::zeros({config().num_heads}, dtype, stream);
  }

  Cost cost(int64_t batch, int64_t tokens, int64_t value_bytes) const override {
    Cost cost = SoftmaxFamily::cost(batch, tokens, value_bytes);
    const auto rows = static_cast<double>(batch * tokens), H = static_cast<double>(config().num_heads);
    const auto width = static_cast<double>(config().num_heads * config().head_dim);
    double extra = 2 * rows * static_cast<double>(shape().model_dim) * H;
    double saved_values = H + width;  // scores and unscaled rows
    if (gate_) {
      extra += rows * gate_->forward_flop_per_token();
      saved_values += static_cast<double>(gate_->num_scores()) + width;
    }
    cost.add({extra, 2 * extra});
    // The kernels add up visible values by a third product forward, where running sums would do.
    if (config().affine_beta)
      cost.executed_flop.forward +=
          softmax_core_flop(config(), batch, executed_pairs(tokens, config().window)).forward / 2;
    cost.saved_bytes += rows * static_cast<double>(value_bytes) * saved_values + rows * 8 * H;
    return cost;
  }

 private:
  Variable attend(Context& ctx, const Variable& x, SoftmaxInputs inputs, int64_t query_offset) override {
    const bool counts = ctx.training && !ctx.recomputing;
    const auto [row_scale, row_bias] =
        apply<AffineScale>(ctx, {.scale = scale_config(query_offset), .has_bias = config().affine_beta},
                           scores_.forward(ctx, x), mean_, counts ? alpha_sums_ : Tensor());
    if (ctx.metrics) report_range(ctx, "alpha", to_doubles(row_scale.value(), ctx.stream));
    inputs.row_scale = row_scale;
    inputs.row_bias = row_bias;
    const Variable y = config().affine_beta
                           ? softmax<attention::RowAffine>(ctx, inputs, {.window = window()}, query_offset)
                           : softmax<attention::RowScaled>(ctx, inputs, {.window = window()}, query_offset);
    return gate_ ? gate_->apply_to(ctx, y, gate_->scores(ctx, x)) : y;
  }

  AffineScaleConfig scale_config(int64_t query_offset) const {
    return {.activation =
                config().affine_act == "sigmoid" ? AffineActivation::sigmoid : AffineActivation::lin_clip,
            .count = config().affine_n_mode == "fixed"     ? AffineCount::fixed
                     : config().affine_n_mode == "visible" ? AffineCount::visible
                                                           : AffineCount::all_keys,
            .fixed_count = config().affine_n_fixed,
            .window = config().window,
            .query_offset = query_offset};
  }

  LinearLayer scores_;
  std::unique_ptr<AttentionGate> gate_;
  Tensor mean_;        // [H]: mu
  Tensor alpha_sums_;  // [H], over the tokens of the step so far
};

HEADWAY_ATTENTION(affine, "Affine-scaled attention: softmax weights scaled and shifted per token and head",
                  "arXiv 2602.23057", AffineConfig, AffineLayer);

}  // namespace
}  // namespace headway
