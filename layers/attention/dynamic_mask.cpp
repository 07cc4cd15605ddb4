// Dynamic mask attention (arXiv 2508.02124): each key/value head scores the keys by their values, adds the
// scores to the softmax's input and keeps the best top_w keys for each token.
//
//   u = v_flat Wdt^T (mixing the heads)   a = A log(1 + exp(u))   delta = exp(a) or a
//   Y_i = sum over kept j of softmax_j(q_i.k_j / sqrt(Dh) + delta_j) v_j
//
// "prefix" is the causal choice: the best among the keys so far, ties to the newer one. So an untrained layer
// (A = 0) is a sliding window of top_w keys, and a key once dropped never returns.

#include <algorithm>
#include <vector>

#include "autograd/apply.h"
#include "autograd/ops/dynamic_mask.h"
#include "autograd/ops/embedding.h"
#include "core/error.h"
#include "kernels/attention/variants/key_masked.h"
#include "layers/attention/health.h"
#include "layers/attention/softmax_family.h"

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
  void check() const override {
    HEADWAY_CHECK(window == 0, ConfigError,
                  "model.attention.window = " + std::to_string(window) +
                      ": expected 0 for dynamic_mask, which chooses keys itself (top_w)");
  }
};

/// The kept keys of each head in the order of their tokens, with their values and scores before the
/// activation. A key once dropped never returns, so later tokens see no others.
struct DynamicMaskState final : AttentionState {
  Tensor keys, values;  // [B,n,K,Dh], n <= top_w; undefined before the first token
  Tensor scores;        // [B,n,K]
};

/// [B,n,...] and [B,T,...] -> [B,n + T,...]; the first may be undefined.
Tensor joined(const Tensor& past, const Tensor& fresh, Stream& stream) {
  if (!past) return fresh;
  const int64_t n = past.size(1), total = n + fresh.size(1);
  Shape shape = fresh.shape();
  shape[1] = total;
  Tensor all = Tensor::empty(shape, fresh.dtype(), fresh.device());
  for (int64_t b = 0; b < fresh.size(0); ++b) {
    const Tensor row = all.slice(0, b, b + 1);
    row.slice(1, 0, n).copy_from(past.slice(0, b, b + 1), stream);
    row.slice(1, n, total).copy_from(fresh.slice(0, b, b + 1), stream);
  }
  return all;
}

/// Of the keys that the last of `length` tokens keeps: rows of [B length K,Dh], in the order of tokens.
/// key_end [B,K,length] -> [B,n,K] i32.
Tensor kept_rows(const Tensor& key_end, int64_t top_w, Stream& stream) {
  const int64_t B = key_end.size(0), K = key_end.size(1), length = key_end.size(2);
  const int64_t n = std::min(top_w, length);
  const std::vector<int32_t> ends = key_end.to_vector<int32_t>(stream);
  std::vector<int32_t> rows(static_cast<size_t>(B * n * K));
  for (int64_t b = 0; b < B; ++b)
    for (int64_t k = 0; k < K; ++k) {
      int64_t slot = 0;
      for (int64_t j = 0; j < length; ++j)
        if (ends[(b * K + k) * length + j] >= length)
          rows[(b * n + slot++) * K + k] = static_cast<int32_t>((b * length + j) * K + k);
    }
  return Tensor::from<int32_t>(rows, {B, n, K}, stream);
}

/// The layer replaces the cache of the softmax family by one that forgets keys.
class DynamicMaskLayer final : public SoftmaxFamily<DynamicMaskConfig> {
 public:
  DynamicMaskLayer(const DynamicMaskConfig& config, const ModelShape& shape)
      : SoftmaxFamily(config, shape),
        score_(config.num_kv_heads * config.head_dim, config.num_kv_heads, Init::normal(shape.init_std),
               config.score_bias),
        rate_(add_parameter("A", {config.num_kv_heads}, Init::zeros(), false)) {
    add_child("dt", score_);
  }

  Variable forward(Context& ctx, const Variable& x, const Positions& positions,
                   AttentionState* state) override {
    auto* const past = static_cast<DynamicMaskState*>(state);
    QueryKeyValue heads = projections().forward(ctx, x, positions);
    Variable u = score_.forward(ctx, merge_heads(ctx, heads.value));
    int64_t query_offset = 0;
    if (past) {
      query_offset = past->keys ? past->keys.size(1) : 0;
      heads.key = Variable(joined(past->keys, heads.key.value(), ctx.stream));
      heads.value = Variable(joined(past->values, heads.value.value(), ctx.stream));
      u = Variable(joined(past->scores, u.value(), ctx.stream));
    }
    const auto [key_bias, key_end] = apply<DynamicMask>(
        ctx, {.top_w = config().top_w, .exponential = config().bias_mode == "exp"}, u, rate_.variable());
    if (ctx.metrics) report_kept_keys(ctx, key_end.value());
    if (past) keep(ctx, *past, heads, u, key_end.value());
    const Variable y = softmax<attention::KeyMasked>(ctx,
                                                     {.q = heads.query,
                                                      .k = heads.key,
                                                      .v = heads.value,
                                                      .key_bias = key_bias,
                                                      .key_end = key_end.value()},
                                                     {}, query_offset);
    return output().forward(ctx, merge_heads(ctx, y));
  }

  std::unique_ptr<AttentionState> make_state(int64_t, int64_t, DType, Device) const override {
    return std::make_unique<DynamicMaskState>();
  }

  /// Kept pairs are as many as a window of top_w keys has. The kernels compute every pair but those of tiles
  /// without a kept key, whose number depends on the text and is not taken off.
  Cost cost(int64_t batch, int64_t tokens, int64_t value_bytes) const override {
    DynamicMaskConfig kept = config();
    kept.window = config().top_w;
    Cost cost = SoftmaxFamily::cost(batch, tokens, value_bytes);
    cost.ideal_flop = softmax_cost(kept, shape(), batch, tokens, value_bytes).ideal_flop;
    const auto rows = static_cast<double>(batch * tokens), K = static_cast<double>(config().num_kv_heads);
    const double scores = 2 * rows * K * K * static_cast<double>(config().head_dim);
    cost.add({scores, 2 * scores});
    cost.saved_bytes += rows * K * (static_cast<double>(value_bytes) + 8);  // u, biases and ends
    return cost;
  }

  bool chooses() const override { return true; }

  /// The memory of kept keys does not grow with the tokens.
  int64_t cache_bytes_per_token(int64_t) const override { return 0; }
  int64_t state_bytes(int64_t value_bytes) const override {
    return config().top_w * config().num_kv_heads * (2 * config().head_dim + 1) * value_bytes;
  }

 private:
  void keep(Context& ctx, DynamicMaskState& past, const QueryKeyValue& heads, const Variable& u,
            const Tensor& key_end) const {
    const Tensor& key = heads.key.value();
    const int64_t B = key.size(0), K = key.size(2), Dh = key.size(3), rows = B * key.size(1) * K;
    const Tensor kept = kept_rows(key_end, config().top_w, ctx.stream);
    const auto gather = [&](const Tensor& all, int64_t width) {
      return apply<Embedding>(ctx, {}, Variable(kept), Variable(all.reshape({rows, width}))).value();
    };
    past.keys = gather(key, Dh);
    past.values = gather(heads.value.value(), Dh);
    past.scores = gather(u.value(), 1).reshape({B, kept.size(1), K});
  }

  LinearLayer score_;
  Parameter& rate_;
};

HEADWAY_ATTENTION(dynamic_mask, "Dynamic mask attention: keys scored by their values, the best ones kept",
                  "arXiv 2508.02124", DynamicMaskConfig, DynamicMaskLayer);

}  // namespace
}  // namespace headway
