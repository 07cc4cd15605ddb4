#include "layers/attention/linear_family.h"

#include <algorithm>
#include <string>

#include "core/error.h"

namespace headway {
namespace {

/// A copy of the config, once it is known to ask for nothing that linear attention lacks.
std::unique_ptr<AttentionConfig> checked(const AttentionConfig& config) {
  HEADWAY_CHECK(config.window == 0, ConfigError,
                "model.attention.kind = \"" + config.kind + "\" has no window");
  HEADWAY_CHECK(config.dropout == 0, ConfigError,
                "model.attention.dropout is set, but " + config.kind +
                    " has no attention weights that could be dropped: expected 0 (model.dropout drops "
                    "activations)");
  return config.clone();
}

/// Chunks of 64 tokens, F features and V value columns per head; states are computed again in backward. The
/// kernels compute all pairs of a chunk, of which a token needs those up to itself.
Cost core_cost(double rows, double heads, double F, double V) {
  constexpr double kChunk = 64;
  const auto flop = [&](double pairs) {
    return Flop{rows * heads * (2 * pairs * (F + V) + 4 * F * V),
                rows * heads * (2 * pairs * (3 * F + 2 * V) + 10 * F * V)};
  };
  return {.executed_flop = flop(kChunk), .ideal_flop = flop((kChunk + 1) / 2)};
}

}  // namespace

void check_plain_heads(const AttentionConfig& config) {
  HEADWAY_CHECK(config.num_kv_heads == config.num_heads, ConfigError,
                "model.attention.num_kv_heads = " + std::to_string(config.num_kv_heads) +
                    ": expected num_heads for " + config.kind);
  HEADWAY_CHECK(!config.qk_norm && !config.bias, ConfigError,
                "model.attention.kind = \"" + config.kind + "\" has no qk_norm or bias");
}

LinearFamilyLayer::LinearFamilyLayer(const AttentionConfig& config, const ModelShape& shape,
                                     const LinearFamilyOptions& options)
    : config_(checked(config)),
      shape_(shape),
      options_(options),
      projections_(config, shape, options.short_convs),
      output_(width(), shape.model_dim, Init::normal(shape.output_init_std), config.bias) {
  add_child("", projections_);
  if (options.has_gate) {
    gate_ = std::make_unique<LinearLayer>(shape.model_dim, width(), Init::normal(shape.init_std), false);
    add_child("gate", *gate_);
  }
  add_child("output", output_);
}

Variable LinearFamilyLayer::forward(Context& ctx, const Variable& x, const Positions& positions,
                                    AttentionState* state) {
  auto* const past = static_cast<RecurrentState*>(state);
  const QueryKeyValue heads = projections_.project(ctx, x, past ? &past->convolutions : nullptr);
  LinearInputs inputs = map(ctx, heads, positions, past);
  if (past) inputs.state = past->matrix;
  const auto [o, matrix] = linear_attention(ctx, inputs, options_.core);
  if (past) past->matrix = matrix;
  return output_.forward(ctx, finish(ctx, o, gate_ ? gate_->forward(ctx, x) : Variable()));
}

Variable LinearFamilyLayer::finish(Context& ctx, const Variable& o, const Variable&) const {
  return merge_heads(ctx, o);
}

std::unique_ptr<AttentionState> LinearFamilyLayer::make_state(int64_t, int64_t, DType, Device) const {
  auto state = std::make_unique<RecurrentState>();
  state->convolutions = projections_.short_convs().make_history();
  return state;
}

Cost LinearFamilyLayer::cost(int64_t batch, int64_t tokens, int64_t value_bytes) const {
  const auto rows = static_cast<double>(batch * tokens), D = static_cast<double>(shape_.model_dim),
             H = static_cast<double>(config_->num_heads);
  const ShortConvs& convs = projections_.short_convs();
  Cost cost =
      core_cost(rows, H, static_cast<double>(options_.num_features), static_cast<double>(config_->head_dim));
  const auto kv_width = static_cast<double>(config_->num_kv_heads * config_->head_dim);
  const double weights = D * (static_cast<double>(width()) * (gate_ ? 3 : 2) + 2 * kv_width);
  const double projections = rows * (2 * weights + convs.forward_flop_per_token());
  cost.add({projections, 2 * projections});
  // input; queries, keys, values and output; the gate; rows before convolutions; the denominators
  const double saved_values =
      D + static_cast<double>(width()) * (gate_ ? 5 : 4) + convs.saved_values_per_token();
  cost.saved_bytes =
      rows * (static_cast<double>(value_bytes) * saved_values + (options_.core.normalise ? 4 * H : 0));
  return cost;
}

int64_t LinearFamilyLayer::state_bytes(int64_t value_bytes) const {
  const int64_t columns = config_->head_dim + (options_.core.normalise ? 1 : 0);
  // the matrix is kept in fp32 at least
  return config_->num_heads * options_.num_features * columns * std::max<int64_t>(value_bytes, 4) +
         projections_.short_convs().state_bytes(value_bytes);
}

}  // namespace headway
