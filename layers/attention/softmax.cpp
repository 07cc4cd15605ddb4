// Softmax attention with grouped queries: MHA (arXiv 1706.03762) where num_kv_heads = num_heads, MQA at 1,
// GQA (arXiv 2305.13245) between.
//
//   Y_i = sum over visible j of softmax_j(q_i.k_j / sqrt(Dh)) v_j,   y = concat(Y) Wo^T
//
// With sink = true every head has a learned logit z_h that takes part in the softmax and carries no value
// (arXiv 2309.17453, section 3.3), so that a head may attend to nothing. short_conv > 0 puts causal
// convolutions behind the projections of queries, keys and values (layers/attention/short_conv.h).

#include "layers/attention/softmax_family.h"

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

class SoftmaxLayer final : public SoftmaxFamily<SoftmaxConfig> {
 public:
  SoftmaxLayer(const SoftmaxConfig& config, const ModelShape& shape)
      : SoftmaxFamily(config, shape, {.taps = config.short_conv}) {
    if (config.sink) sink_ = &add_parameter("sink", {config.num_heads}, Init::zeros(), false);
  }

 private:
  Variable attend(Context& ctx, const Variable&, SoftmaxInputs inputs, int64_t query_offset) override {
    if (sink_) inputs.sink = sink_->variable();
    return causal(ctx, inputs, query_offset);
  }

  Parameter* sink_ = nullptr;
};

HEADWAY_ATTENTION(softmax, "Softmax attention (MHA, GQA, MQA), optionally in a sliding window",
                  "arXiv 1706.03762, 2305.13245", SoftmaxConfig, SoftmaxLayer);

}  // namespace
}  // namespace headway
