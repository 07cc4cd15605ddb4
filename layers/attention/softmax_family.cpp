#include "layers/attention/softmax_family.h"

namespace headway {

int64_t append_to_cache(Context& ctx, QueryKeyValue& heads, KvCache* cache) {
  if (!cache) return 0;
  const int64_t position = cache->length();
  cache->append(heads.key.value(), heads.value.value(), ctx.stream);
  heads.key = Variable(cache->keys());
  heads.value = Variable(cache->values());
  return position;
}

SoftmaxFamilyLayer::SoftmaxFamilyLayer(const AttentionConfig& config, const ModelShape& shape,
                                       const ShortConvs::Options& short_convs)
    : config_(config.clone()),
      shape_(shape),
      projections_(config, shape, short_convs),
      output_(config.num_heads * config.head_dim, shape.model_dim, Init::normal(shape.output_init_std),
              config.bias) {
  add_child("", projections_);
  add_child("output", output_);
}

Variable SoftmaxFamilyLayer::forward(Context& ctx, const Variable& x, const Positions& positions,
                                     AttentionState* state) {
  auto* const past = static_cast<KvCache*>(state);
  QueryKeyValue rows = heads(ctx, x, positions, past);
  const int64_t query_offset = append_to_cache(ctx, rows, past);
  const Variable y = attend(ctx, x, {.q = rows.query, .k = rows.key, .v = rows.value}, query_offset);
  return output_.forward(ctx, merge_heads(ctx, y));
}

Variable SoftmaxFamilyLayer::attend(Context& ctx, const Variable&, SoftmaxInputs inputs,
                                    int64_t query_offset) {
  return causal(ctx, inputs, query_offset);
}

QueryKeyValue SoftmaxFamilyLayer::heads(Context& ctx, const Variable& x, const Positions& positions,
                                        KvCache* past) {
  return projections_.forward(ctx, x, positions, past ? &past->convolutions : nullptr);
}

std::unique_ptr<AttentionState> SoftmaxFamilyLayer::make_state(int64_t batch, int64_t capacity, DType dtype,
                                                               Device device) const {
  auto cache =
      std::make_unique<KvCache>(batch, capacity, config_->num_kv_heads, config_->head_dim, dtype, device);
  cache->convolutions = projections_.short_convs().make_history();
  return cache;
}

Cost SoftmaxFamilyLayer::cost(int64_t batch, int64_t tokens, int64_t value_bytes) const {
  Cost cost = softmax_cost(*config_, shape_, batch, tokens, value_bytes);
  const ShortConvs& convs = projections_.short_convs();
  const auto rows = static_cast<double>(batch * tokens);
  const double convolutions = rows * convs.forward_flop_per_token();
  cost.add({convolutions, 2 * convolutions});
  cost.saved_bytes += rows * convs.saved_values_per_token() * static_cast<double>(value_bytes);
  return cost;
}

int64_t SoftmaxFamilyLayer::cache_bytes_per_token(int64_t value_bytes) const {
  return 2 * config_->num_kv_heads * config_->head_dim * value_bytes;
}

int64_t SoftmaxFamilyLayer::state_bytes(int64_t value_bytes) const {
  return projections_.short_convs().state_bytes(value_bytes);
}

}  // namespace headway
