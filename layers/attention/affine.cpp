// Affine-scaled attention (arXiv 2602.23057): each head's softmax weights are scaled and shifted per token,
//
//   O_i = alpha_i Y_i + (mu - alpha_i) / N_i * (sum of the visible values),   alpha = act(x Wa^T)
//
// mu is a running mean of alpha per head, updated once per step over all tokens of all ranks and constant for
// gradients. The mask applies to the shift as well: the paper does not say so, but without it a row would
// read the future.

#include "autograd/apply.h"
#include "autograd/ops/affine_scale.h"
#include "autograd/ops/softmax_attention.h"
#include "core/comm/communicator.h"
#include "core/io/archive.h"
#include "kernels/attention/variants/row_affine.h"
#include "kernels/attention/variants/row_scaled.h"
#include "layers/attention/attention_gate.h"
#include "layers/attention/causal_attention.h"
#include "layers/attention/health.h"
#include "layers/attention/softmax_cost.h"

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
  bool has_gate() const { return gate.gate_position != "none"; }
};

class AffineLayer final : public AttentionLayer {
 public:
  AffineLayer(const AffineConfig& config, const ModelShape& shape)
      : config_(config),
        shape_(shape),
        projections_(config, shape),
        scores_(shape.model_dim, config.num_heads,
                config.affine_init == "zero" ? Init::zeros() : Init::normal(shape.init_std),
                config.affine_bias),
        output_(config.num_heads * config.head_dim, shape.model_dim, Init::normal(shape.output_init_std),
                config.bias) {
    HEADWAY_CHECK(
        config.affine_ema_stopgrad, ConfigError,
        "model.attention.affine_ema_stopgrad = false: expected true, the running mean is a constant");
    add_child("", projections_);
    add_child("affine", scores_);
    if (config.has_gate()) {
      gate_ = std::make_unique<AttentionGate>(config.gate, config, shape.model_dim, shape.init_std);
      add_child("gate", *gate_);
    }
    add_child("output", output_);
  }

  Variable forward(Context& ctx, const Variable& x, const Positions& positions,
                   AttentionState* state) override {
    QueryKeyValue heads = projections_.forward(ctx, x, positions);
    const int64_t query_offset = append_to_cache(ctx, heads, static_cast<KvCache*>(state));
    const Variable z = scores_.forward(ctx, x);
    const bool counts = ctx.training && !ctx.recomputing;
    const auto [row_scale, row_bias] =
        apply<AffineScale>(ctx, {.scale = scale_config(query_offset), .has_bias = config_.affine_beta}, z,
                           mean_, counts ? alpha_sums_ : Tensor());
    if (ctx.metrics) report_range(ctx, "alpha", to_doubles(row_scale.value(), ctx.stream));

    const SoftmaxInputs inputs{
        .q = heads.query, .k = heads.key, .v = heads.value, .row_scale = row_scale, .row_bias = row_bias};
    const int window = static_cast<int>(config_.window);
    Variable y =
        config_.affine_beta
            ? softmax_attention<attention::RowAffine>(
                  ctx, inputs,
                  {.params = {.window = window}, .query_offset = query_offset, .dropout = config_.dropout})
            : softmax_attention<attention::RowScaled>(
                  ctx, inputs,
                  {.params = {.window = window}, .query_offset = query_offset, .dropout = config_.dropout});
    if (gate_) y = gate_->apply_to(ctx, y, gate_->scores(ctx, x));
    return output_.forward(ctx, merge_heads(ctx, y));
  }

  /// mu <- rho mu + (1 - rho) mean of alpha over the step's tokens of all ranks.
  void after_step(Context& ctx, Communicator& comm, const FinishedStep& step) override {
    comm.all_reduce(alpha_sums_, Reduce::sum, ctx.stream);
    update_running_mean(mean_, alpha_sums_, config_.affine_ema_rho, step.num_positions, step.grad_scale,
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
      const std::vector<T> start(static_cast<size_t>(config_.num_heads),
                                 static_cast<T>(config_.affine_ema_init));
      mean_ = Tensor::from<T>(start, {config_.num_heads}, stream);
    });
    alpha_sums_ = Tensor::zeros({config_.num_heads}, dtype, stream);
  }

  std::unique_ptr<AttentionState> make_state(int64_t batch, int64_t capacity, DType dtype,
                                             Device device) const override {
    return std::make_unique<KvCache>(batch, capacity, config_.num_kv_heads, config_.head_dim, dtype, device);
  }

  Cost cost(int64_t batch, int64_t tokens, int64_t value_bytes) const override {
    Cost cost = softmax_cost(config_, shape_, batch, tokens, value_bytes);
    const auto rows = static_cast<double>(batch * tokens), H = static_cast<double>(config_.num_heads);
    double extra = 2 * rows * static_cast<double>(shape_.model_dim) * H;
    double saved_values =
        H + static_cast<double>(config_.num_heads * config_.head_dim);  // scores and unscaled rows
    if (gate_) {
      extra += rows * gate_->forward_flop_per_token();
      saved_values += static_cast<double>(gate_->num_scores() + config_.num_heads * config_.head_dim);
    }
    cost.add({extra, 2 * extra});
    // The kernels add up visible values by a third product forward, where running sums would do.
    if (config_.affine_beta)
      cost.executed_flop.forward +=
          softmax_core_flop(config_, batch, executed_pairs(tokens, config_.window)).forward / 2;
    cost.saved_bytes += rows * static_cast<double>(value_bytes) * saved_values + rows * 8 * H;
    return cost;
  }

  int64_t cache_bytes_per_token(int64_t value_bytes) const override {
    return 2 * config_.num_kv_heads * config_.head_dim * value_bytes;
  }

 private:
  AffineScaleConfig scale_config(int64_t query_offset) const {
    return {.activation =
                config_.affine_act == "sigmoid" ? AffineActivation::sigmoid : AffineActivation::lin_clip,
            .count = config_.affine_n_mode == "fixed"     ? AffineCount::fixed
                     : config_.affine_n_mode == "visible" ? AffineCount::visible
                                                          : AffineCount::all_keys,
            .fixed_count = config_.affine_n_fixed,
            .window = config_.window,
            .query_offset = query_offset};
  }

  AffineConfig config_;
  ModelShape shape_;
  Projections projections_;
  LinearLayer scores_;
  std::unique_ptr<AttentionGate> gate_;
  LinearLayer output_;
  Tensor mean_;        // [H]: mu
  Tensor alpha_sums_;  // [H], over the tokens of the step so far
};

HEADWAY_ATTENTION(affine, "Affine-scaled attention: softmax weights scaled and shifted per token and head",
                  "arXiv 2602.23057", AffineConfig, AffineLayer);

}  // namespace
}  // namespace headway
