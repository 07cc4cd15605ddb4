// Gated attention (arXiv 2505.06708): softmax attention with a gate from the layer's own input at one of five
// places.
//
//   g1: Y * act(x Wg)   g2, g3, g4: the same on values, keys, queries before norm and rotation   g5: on the
//   output
//
// The best of the paper is the default: g1, one score per channel, multiplied through a sigmoid.

#include "autograd/ops/reshape.h"
#include "layers/attention/attention_gate.h"
#include "layers/attention/softmax_family.h"

namespace headway {
namespace {

struct GatedConfig : AttentionConfigOf<GatedConfig> {
  GateKeys gate;
  void describe_kind(FieldVisitor& v) override { gate.describe(v, {"g1", "g2", "g3", "g4", "g5"}); }
};

class GatedLayer final : public SoftmaxFamily<GatedConfig> {
 public:
  GatedLayer(const GatedConfig& config, const ModelShape& shape)
      : SoftmaxFamily(config, shape), gate_(config.gate, config, shape.model_dim, shape.init_std) {
    add_child("gate", gate_);
  }

  Variable forward(Context& ctx, const Variable& x, const Positions& positions,
                   AttentionState* state) override {
    const Variable output = SoftmaxFamily::forward(ctx, x, positions, state);
    if (config().gate.gate_position != "g5") return output;
    const Variable rows = reshape(ctx, output, {output.size(0), output.size(1), 1, output.size(2)});
    return reshape(ctx, gated("g5", ctx, x, rows), output.shape());
  }

  Cost cost(int64_t batch, int64_t tokens, int64_t value_bytes) const override {
    Cost cost = SoftmaxFamily::cost(batch, tokens, value_bytes);
    const auto rows = static_cast<double>(batch * tokens);
    const double gate = rows * gate_.forward_flop_per_token();
    cost.add({gate, 2 * gate});
    // the scores and the gated rows
    const int64_t gated =
        config().gate.gate_position == "g5" ? shape().model_dim : config().num_heads * config().head_dim;
    cost.saved_bytes += rows * static_cast<double>(value_bytes * (gate_.num_scores() + gated));
    return cost;
  }

 private:
  QueryKeyValue heads(Context& ctx, const Variable& x, const Positions& positions, KvCache*) override {
    const QueryKeyValue rows = projections().project(ctx, x);
    return projections().place(
        ctx,
        {gated("g4", ctx, x, rows.query), gated("g3", ctx, x, rows.key), gated("g2", ctx, x, rows.value)},
        positions);
  }
  Variable attend(Context& ctx, const Variable& x, SoftmaxInputs inputs, int64_t query_offset) override {
    return gated("g1", ctx, x, causal(ctx, inputs, query_offset));
  }

  /// Applies the gate to target if the recipe puts the gate at this place; otherwise returns target
  /// unchanged.
  Variable gated(std::string_view place, Context& ctx, const Variable& x, const Variable& target) const {
    return config().gate.gate_position == place ? gate_.apply_to(ctx, target, gate_.scores(ctx, x)) : target;
  }

  AttentionGate gate_;
};

HEADWAY_ATTENTION(gated, "Gated attention: softmax attention whose output, or input, passes a gate",
                  "arXiv 2505.06708", GatedConfig, GatedLayer);

}  // namespace
}  // namespace headway
