// Softmax attention with grouped queries: MHA (arXiv 1706.03762) where num_kv_heads = num_heads, MQA at 1,
// GQA (arXiv 2305.13245) between.
//
//   Y_i = sum over visible j of softmax_j(q_i.k_j / sqrt(Dh)) v_j,   y = concat(Y) Wo^T
//
// With sink = true every head has a learned logit z_h that takes part in the softmax and carries no value
// (arXiv 2309.17453, section 3.3), so that a head may attend to nothing. short_conv > 0 puts causal
// convolutions behind the projections of queries, keys and values (layers/attention/short_conv.h).

#include "layers/attention/causal_attention.h"
#include "layers/attention/softmax_cost.h"

namespace headway {
namespace {

struct SoftmaxConfig : AttentionConfigOf<SoftmaxConfig> {
  bool sink = false;
  int64_t short_conv = 0;
  void describe_kind(FieldVisitor& v) override {
    v("sink", sink, "a learned logit per head in the softmax that carries no value (arXiv 2309.17453)");
    describe_short_conv(v, short_conv);
  }
};

class SoftmaxLayer final : public AttentionLayer {
 public:
  SoftmaxLayer(const SoftmaxConfig& config, const ModelShape& shape)
      : config_(config),
        shape_(shape),
        projections_(config, shape, config.short_conv),
        output_(config.num_heads * config.head_dim, shape.model_dim, Init::normal(shape.output_init_std),
                config.bias) {
    add_child("", projections_);
    add_child("output", output_);
    if (config.sink) sink_ = &add_parameter("sink", {config.num_heads}, Init::zeros(), false);
  }

  Variable forward(Context& ctx, const Variable& x, const Positions& positions,
                   AttentionState* state) override {
    auto* const past = static_cast<KvCache*>(state);
    const QueryKeyValue heads = projections_.forward(ctx, x, positions, past ? &past->convolutions : nullptr);
    const Variable y = causal_attention(ctx, heads,
                                        {.window = config_.window,
                                         .dropout = config_.dropout,
                                         .sink = sink_ ? sink_->variable() : Variable()},
                                        past);
    return output_.forward(ctx, merge_heads(ctx, y));
  }

  std::unique_ptr<AttentionState> make_state(int64_t batch, int64_t capacity, DType dtype,
                                             Device device) const override {
    auto cache =
        std::make_unique<KvCache>(batch, capacity, config_.num_kv_heads, config_.head_dim, dtype, device);
    cache->convolutions = projections_.short_convs().make_history();
    return cache;
  }

  Cost cost(int64_t batch, int64_t tokens, int64_t value_bytes) const override {
    Cost cost = softmax_cost(config_, shape_, batch, tokens, value_bytes);
    const auto rows = static_cast<double>(batch * tokens);
    const double convolutions = rows * projections_.short_convs().forward_flop_per_token();
    cost.add({convolutions, 2 * convolutions});
    cost.saved_bytes +=
        rows * projections_.short_convs().saved_values_per_token() * static_cast<double>(value_bytes);
    return cost;
  }

  int64_t cache_bytes_per_token(int64_t value_bytes) const override {
    return 2 * config_.num_kv_heads * config_.head_dim * value_bytes;
  }
  int64_t state_bytes(int64_t value_bytes) const override {
    return projections_.short_convs().state_bytes(value_bytes);
  }

 private:
  SoftmaxConfig config_;
  ModelShape shape_;
  Projections projections_;
  LinearLayer output_;
  Parameter* sink_ = nullptr;
};

HEADWAY_ATTENTION(softmax, "Softmax attention (MHA, GQA, MQA), optionally in a sliding window",
                  "arXiv 1706.03762, 2305.13245", SoftmaxConfig, SoftmaxLayer);

}  // namespace
}  // namespace headway
