// Gated attention (arXiv 2505.06708): softmax attention with a gate from the layer's own input at one of five
// places.
//
//   g1: Y * act(x Wg)   g2, g3, g4: the same on values, keys, queries before norm and rotation   g5: on the
//   output
//
// The best of the paper is the default: g1, one score per channel, multiplied through a sigmoid.

#include "autograd/ops/reshape.h"
#include "layers/attention/attention_gate.h"
#include "layers/attention/causal_attention.h"
#include "layers/attention/softmax_cost.h"

namespace headway {
namespace {

struct GatedConfig : AttentionConfigOf<GatedConfig> {
  GateKeys gate;
  void describe_kind(FieldVisitor& v) override { gate.describe(v, {"g1", "g2", "g3", "g4", "g5"}); }
};

class GatedLayer final : public AttentionLayer {
 public:
  GatedLayer(const GatedConfig& config, const ModelShape& shape)
      : config_(config),
        shape_(shape),
        projections_(config, shape),
        gate_(config.gate, config, shape.model_dim, shape.init_std),
        output_(config.num_heads * config.head_dim, shape.model_dim, Init::normal(shape.output_init_std),
                config.bias) {
    add_child("", projections_);
    add_child("gate", gate_);
    add_child("output", output_);
  }

  Variable forward(Context& ctx, const Variable& x, const Positions& positions,
                   AttentionState* state) override {
    const Variable scores = gate_.scores(ctx, x);
    const auto gated = [&](std::string_view place, const Variable& target) {
      return config_.gate.gate_position == place ? gate_.apply_to(ctx, target, scores) : target;
    };
    QueryKeyValue heads = projections_.project(ctx, x);
    heads = {gated("g4", heads.query), gated("g3", heads.key), gated("g2", heads.value)};
    const Variable y = causal_attention(ctx, projections_.place(ctx, heads, positions),
                                        {.window = config_.window, .dropout = config_.dropout},
                                        static_cast<KvCache*>(state));
    const Variable output = output_.forward(ctx, merge_heads(ctx, gated("g1", y)));
    if (config_.gate.gate_position != "g5") return output;
    const Variable rows = reshape(ctx, output, {output.size(0), output.size(1), 1, output.size(2)});
    return reshape(ctx, gated("g5", rows), output.shape());
  }

  std::unique_ptr<AttentionState> make_state(int64_t batch, int64_t capacity, DType dtype,
                                             Device device) const override {
    return std::make_unique<KvCache>(batch, capacity, config_.num_kv_heads, config_.head_dim, dtype, device);
  }

  Cost cost(int64_t batch, int64_t tokens, int64_t value_bytes) const override {
    Cost cost = softmax_cost(config_, shape_, batch, tokens, value_bytes);
    const auto rows = static_cast<double>(batch * tokens);
    const double gate = rows * gate_.forward_flop_per_token();
    cost.add({gate, 2 * gate});
    // the scores and the gated rows
    const auto gated = static_cast<double>(
        config_.gate.gate_position == "g5" ? shape_.model_dim : config_.num_heads * config_.head_dim);
    cost.saved_bytes +=
        rows * static_cast<double>(value_bytes) * (static_cast<double>(gate_.num_scores()) + gated);
    return cost;
  }

  int64_t cache_bytes_per_token(int64_t value_bytes) const override {
    return 2 * config_.num_kv_heads * config_.head_dim * value_bytes;
  }

 private:
  GatedConfig config_;
  ModelShape shape_;
  Projections projections_;
  AttentionGate gate_;
  LinearLayer output_;
};

HEADWAY_ATTENTION(gated, "Gated attention: softmax attention whose output, or input, passes a gate",
                  "arXiv 2505.06708", GatedConfig, GatedLayer);

}  // namespace
}  // namespace headway
