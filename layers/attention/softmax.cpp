// Softmax attention with grouped queries: MHA (arXiv 1706.03762) where num_kv_heads = num_heads, MQA at 1,
// GQA (arXiv 2305.13245) between.
//
//   Y_i = sum over visible j of softmax_j(q_i.k_j / sqrt(Dh)) v_j,   y = concat(Y) Wo^T

#include "autograd/ops/reshape.h"
#include "autograd/ops/softmax_attention.h"
#include "kernels/attention/variants/plain.h"
#include "kernels/attention/variants/sliding_window.h"
#include "layers/attention/kv_cache.h"
#include "layers/attention/projections.h"
#include "layers/attention/softmax_cost.h"

namespace headway {
namespace {

struct SoftmaxConfig : AttentionConfigOf<SoftmaxConfig> {};

class SoftmaxLayer final : public AttentionLayer {
 public:
  SoftmaxLayer(const SoftmaxConfig& config, const ModelShape& shape)
      : config_(config),
        shape_(shape),
        projections_(config, shape),
        output_(config.num_heads * config.head_dim, shape.model_dim, Init::normal(shape.output_init_std),
                config.bias) {
    add_child("", projections_);
    add_child("output", output_);
  }

  Variable forward(Context& ctx, const Variable& x, const Positions& positions,
                   AttentionState* state) override {
    QueryKeyValue heads = projections_.forward(ctx, x, positions);
    int64_t query_offset = 0;
    if (auto* cache = static_cast<KvCache*>(state)) {
      query_offset = cache->length();
      cache->append(heads.key.value(), heads.value.value(), ctx.stream);
      heads.key = Variable(cache->keys());
      heads.value = Variable(cache->values());
    }
    const Variable y = attend(ctx, heads, query_offset);
    return output_.forward(ctx, reshape(ctx, y, {y.size(0), y.size(1), y.size(2) * y.size(3)}));
  }

  std::unique_ptr<AttentionState> make_state(int64_t batch, int64_t capacity, DType dtype,
                                             Device device) const override {
    return std::make_unique<KvCache>(batch, capacity, config_.num_kv_heads, config_.head_dim, dtype, device);
  }

  Cost cost(int64_t batch, int64_t tokens, int64_t value_bytes) const override {
    return softmax_cost(config_, shape_, batch, tokens, value_bytes);
  }

  int64_t cache_bytes_per_token(int64_t value_bytes) const override {
    return 2 * config_.num_kv_heads * config_.head_dim * value_bytes;
  }

 private:
  Variable attend(Context& ctx, const QueryKeyValue& heads, int64_t query_offset) const {
    const SoftmaxInputs inputs{.q = heads.query, .k = heads.key, .v = heads.value};
    if (config_.window == 0)
      return softmax_attention<attention::Plain>(ctx, inputs, {.query_offset = query_offset});
    return softmax_attention<attention::SlidingWindow>(
        ctx, inputs, {.params = {.window = static_cast<int>(config_.window)}, .query_offset = query_offset});
  }

  SoftmaxConfig config_;
  ModelShape shape_;
  Projections projections_;
  LinearLayer output_;
};

HEADWAY_ATTENTION(softmax, "Softmax attention (MHA, GQA, MQA), optionally in a sliding window",
                  "arXiv 1706.03762, 2305.13245", SoftmaxConfig, SoftmaxLayer);

}  // namespace
}  // namespace headway
