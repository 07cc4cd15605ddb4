// Dynamic mask attention (arXiv 2508.02124): each key/value head scores the keys by their values, adds the
// scores to the softmax's input and keeps the best top_w keys for each token.
//
//   u = v_flat Wdt^T (mixing the heads)   a = A log(1 + exp(u))   delta = exp(a) or a
//   Y_i = sum over kept j of softmax_j(q_i.k_j / sqrt(Dh) + delta_j) v_j
//
// "prefix" is the causal choice: the best among the keys so far, ties to the newer one. So an untrained layer
// (A = 0) is a sliding window of top_w keys, and a key once dropped never returns.

#include "autograd/ops/dynamic_mask.h"
#include "autograd/apply.h"
#include "autograd/ops/softmax_attention.h"
#include "core/error.h"
#include "kernels/attention/variants/key_masked.h"
#include "layers/attention/causal_attention.h"
#include "layers/attention/health.h"
#include "layers/attention/softmax_cost.h"

namespace headway {
namespace {

struct DynamicMaskConfig : AttentionConfigOf<DynamicMaskConfig> {
  int64_t top_w = 8;
  std::string selection = "prefix";
  std::string bias_mode = "exp";
  std::string tie_rule = "newest";
  bool score_bias = false;

  DynamicMaskConfig() { qk_norm = true; }

  void describe_kind(FieldVisitor& v) override {
    v("top_w", top_w, "keys kept for each token and key/value head", {.min = 1, .max = 1e9});
    v("selection", selection, "the best among the keys up to the token", {.choices = {"prefix"}});
    v("bias_mode", bias_mode, "what is added to the scores: exp(a), or a itself",
      {.choices = {"exp", "linear"}});
    v("tie_rule", tie_rule, "of equally good keys the newest is kept", {.choices = {"newest"}});
    v("score_bias", score_bias, "bias of the score projection");
  }
};

/// Keys and values, and the score of each key before its activation.
struct DynamicMaskState final : AttentionState {
  DynamicMaskState(int64_t batch, int64_t capacity, int64_t num_kv_heads, int64_t head_dim, DType dtype,
                   Device device)
      : cache(batch, capacity, num_kv_heads, head_dim, dtype, device),
        scores(Tensor::empty({batch, capacity, num_kv_heads}, dtype, device)) {}

  /// u [B,T,K] of new tokens -> of all, [B,length + T,K].
  Tensor append_scores(const Tensor& u, Stream& stream) {
    const int64_t begin = cache.length(), end = begin + u.size(1);
    for (int64_t b = 0; b < u.size(0); ++b)
      scores.slice(0, b, b + 1).slice(1, begin, end).copy_from(u.slice(0, b, b + 1), stream);
    return scores.slice(1, 0, end);
  }

  KvCache cache;
  Tensor scores;  // [B,capacity,K]
};

class DynamicMaskLayer final : public AttentionLayer {
 public:
  DynamicMaskLayer(const DynamicMaskConfig& config, const ModelShape& shape)
      : config_(config),
        shape_(shape),
        projections_(config, shape),
        score_(config.num_kv_heads * config.head_dim, config.num_kv_heads, Init::normal(shape.init_std),
               config.score_bias),
        output_(config.num_heads * config.head_dim, shape.model_dim, Init::normal(shape.output_init_std),
                config.bias),
        rate_(add_parameter("A", {config.num_kv_heads}, Init::zeros(), false)) {
    HEADWAY_CHECK(config.window == 0, ConfigError,
                  "model.attention.window = " + std::to_string(config.window) +
                      ": expected 0 for dynamic_mask, which chooses keys itself (top_w)");
    add_child("", projections_);
    add_child("dt", score_);
    add_child("output", output_);
  }

  Variable forward(Context& ctx, const Variable& x, const Positions& positions,
                   AttentionState* state) override {
    auto* const past = static_cast<DynamicMaskState*>(state);
    QueryKeyValue heads = projections_.forward(ctx, x, positions);
    Variable u = score_.forward(ctx, merge_heads(ctx, heads.value));
    if (past) u = Variable(past->append_scores(u.value(), ctx.stream));
    const int64_t query_offset = append_to_cache(ctx, heads, past ? &past->cache : nullptr);
    const auto [key_bias, key_end] = apply<DynamicMask>(
        ctx, {.top_w = config_.top_w, .exponential = config_.bias_mode == "exp"}, u, rate_.variable());
    if (ctx.metrics) report_kept_keys(ctx, key_end.value());
    const Variable y = softmax_attention<attention::KeyMasked>(ctx,
                                                               {.q = heads.query,
                                                                .k = heads.key,
                                                                .v = heads.value,
                                                                .key_bias = key_bias,
                                                                .key_end = key_end.value()},
                                                               {.query_offset = query_offset});
    return output_.forward(ctx, merge_heads(ctx, y));
  }

  std::unique_ptr<AttentionState> make_state(int64_t batch, int64_t capacity, DType dtype,
                                             Device device) const override {
    return std::make_unique<DynamicMaskState>(batch, capacity, config_.num_kv_heads, config_.head_dim, dtype,
                                              device);
  }

  /// Of the kept pairs: as many as a window of top_w keys has.
  Cost cost(int64_t batch, int64_t tokens, int64_t value_bytes) const override {
    DynamicMaskConfig kept = config_;
    kept.window = config_.top_w;
    Cost cost = softmax_cost(kept, shape_, batch, tokens, value_bytes);
    const auto rows = static_cast<double>(batch * tokens), K = static_cast<double>(config_.num_kv_heads);
    const double scores = 2 * rows * K * K * static_cast<double>(config_.head_dim);
    cost.forward_flop += scores;
    cost.backward_flop += 2 * scores;
    cost.saved_bytes += rows * K * (static_cast<double>(value_bytes) + 8);  // u, biases and ends
    return cost;
  }

  int64_t cache_bytes_per_token(int64_t value_bytes) const override {
    return (2 * config_.num_kv_heads * config_.head_dim + config_.num_kv_heads) * value_bytes;
  }

 private:
  DynamicMaskConfig config_;
  ModelShape shape_;
  Projections projections_;
  LinearLayer score_, output_;
  Parameter& rate_;
};

HEADWAY_ATTENTION(dynamic_mask, "Dynamic mask attention: keys scored by their values, the best ones kept",
                  "arXiv 2508.02124", DynamicMaskConfig, DynamicMaskLayer);

}  // namespace
}  // namespace headway
