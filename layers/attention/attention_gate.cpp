#include "layers/attention/attention_gate.h"

#include <algorithm>

#include "autograd/apply.h"
#include "autograd/ops/linear.h"
#include "autograd/ops/reshape.h"
#include "core/error.h"
#include "layers/attention/health.h"

namespace headway {
namespace {

GateActivation parse_activation(const std::string& name) {
  if (name == "sigmoid") return GateActivation::sigmoid;
  if (name == "ns_sigmoid") return GateActivation::ns_sigmoid;
  if (name == "silu") return GateActivation::silu;
  return GateActivation::identity;
}

int64_t heads_at(const GateKeys& keys, const AttentionConfig& c) {
  if (keys.gate_position == "g5") return 1;
  return keys.gate_position == "g2" || keys.gate_position == "g3" ? c.num_kv_heads : c.num_heads;
}

}  // namespace

void GateKeys::describe(FieldVisitor& v, std::vector<std::string_view> positions) {
  v("gate_position", gate_position,
    "what is gated: g1 the heads' outputs, g2 values, g3 keys, g4 queries, g5 the layer's output",
    {.choices = std::move(positions)});
  v("gate_granularity", gate_granularity, "one score per channel or per head",
    {.choices = {"elementwise", "headwise"}});
  v("gate_heads", gate_heads,
    "a gate per head, or one for all: their mean after (post) or before (pre) the activation",
    {.choices = {"specific", "shared_mean_post", "shared_mean_pre"}});
  v("gate_combine", gate_combine, "multiply by the gate or add it", {.choices = {"mul", "add"}});
  v("gate_act", gate_act, "function of the scores; ns_sigmoid = 0.5 + 0.5 sigmoid",
    {.choices = {"sigmoid", "ns_sigmoid", "silu", "identity"}});
  v("gate_input", gate_input, "scores from the layer's input x, or none: a learned constant",
    {.choices = {"x", "none"}});
  v("gate_input_dims", gate_input_dims, "channels of x the scores are made from; 0 = all",
    {.min = 0, .max = 1e6});
  v("gate_bias", gate_bias, "bias of the gate's projection");
  v("gate_init", gate_init, "start of the gate's projection; zero: every score is 0",
    {.choices = {"normal", "zero"}});
}

void GateKeys::check(const AttentionConfig& config) const {
  HEADWAY_CHECK(
      gate_position != "g5" || is_elementwise(), ConfigError,
      "model.attention.gate_granularity = \"headwise\": expected elementwise at gate_position = \"g5\"");
  const bool before_norm = gate_position == "g3" || gate_position == "g4";
  HEADWAY_CHECK(
      !(before_norm && config.qk_norm && !is_elementwise() && gate_combine == "mul"), ConfigError,
      "model.attention.gate_granularity = \"headwise\": expected elementwise at gate_position = \"" +
          gate_position + "\" with qk_norm, which would cancel a factor per head");
  HEADWAY_CHECK(gate_input != "none" || (!gate_bias && gate_input_dims == 0), ConfigError,
                "model.attention.gate_input = \"none\" has neither gate_bias nor gate_input_dims");
}

AttentionGate::AttentionGate(const GateKeys& keys, const AttentionConfig& config, int64_t model_dim,
                             double init_std)
    : keys_(keys),
      activation_(parse_activation(keys.gate_act)),
      num_heads_(heads_at(keys, config)),
      width_(keys.gate_position == "g5" ? model_dim
             : keys.is_elementwise()    ? config.head_dim
                                        : 1),
      num_inputs_(keys.gate_input_dims > 0 ? keys.gate_input_dims : model_dim) {
  keys_.check(config);
  HEADWAY_CHECK(num_inputs_ <= model_dim, ConfigError,
                "model.attention.gate_input_dims = " + std::to_string(num_inputs_) +
                    ": expected at most model_dim = " + std::to_string(model_dim));
  if (keys_.gate_input == "none") {
    logit_ = &add_parameter("logit", {num_heads_, width_}, Init::zeros(), false);
    return;
  }
  weight_ = &add_parameter("weight", {num_scores(), num_inputs_},
                           keys_.gate_init == "zero" ? Init::zeros() : Init::normal(init_std), true);
  if (keys_.gate_bias) bias_ = &add_parameter("bias", {num_scores()}, Init::zeros(), false);
}

Variable AttentionGate::scores(Context& ctx, const Variable& x) const {
  if (logit_) return logit_->variable();
  const Variable z = apply<Linear>(ctx, {}, x, weight_->variable(), bias_ ? bias_->variable() : Variable());
  return reshape(ctx, z, {z.size(0), z.size(1), num_heads_, width_});
}

Variable AttentionGate::apply_to(Context& ctx, const Variable& target, const Variable& scores) const {
  GateActivation activation = activation_;
  Variable z = scores;
  if (keys_.gate_heads == "shared_mean_post") {
    z = apply<HeadMean>(ctx, {}, apply<Activate>(ctx, {.activation = activation}, z));
    activation = GateActivation::identity;
  } else if (keys_.gate_heads == "shared_mean_pre") {
    z = apply<HeadMean>(ctx, {}, z);
  }
  if (ctx.metrics) report(ctx, z, activation);
  return apply<Gate>(ctx, {.activation = activation, .adds = keys_.gate_combine == "add"}, target, z);
}

void AttentionGate::report(Context& ctx, const Variable& z, GateActivation activation) {
  std::vector<double> gates = to_doubles(z.value(), ctx.stream);
  for (double& gate : gates) gate = activate(activation, gate);
  report_range(ctx, "gate", gates);
  const auto closed = std::ranges::count_if(gates, [](double gate) { return gate < 0.1; });
  ctx.metrics->add("gate_below_tenth", static_cast<double>(closed) / static_cast<double>(gates.size()));
}

double AttentionGate::forward_flop_per_token() const {
  return weight_ ? 2 * static_cast<double>(num_scores()) * static_cast<double>(num_inputs_) : 0;
}

}  // namespace headway
