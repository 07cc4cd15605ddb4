#include "layers/block.h"

#include <cmath>
#include <string>

#include "autograd/apply.h"
#include "autograd/ops/elementwise.h"
#include "core/prefixed_metrics.h"
#include "layers/attention/health.h"

namespace headway {
namespace {

// GPT-2's rule (Radford et al. 2019, section 2.3): what writes to the residual stream starts smaller by the
// square root of the number of writers, two per block.
double output_init_std(const ModelConfig& config) {
  return config.init_std / std::sqrt(2.0 * static_cast<double>(config.num_layers));
}

}  // namespace

Block::Block(const ModelConfig& config, int64_t layer_index)
    : layer_index_(layer_index),
      dropout_(config.dropout),
      attention_norm_(NormLayer::parse_style(config.norm), config.model_dim, config.norm_eps, config.bias),
      attention_(
          find_attention(config.attention.of_layer(layer_index).kind)
              .make(config.attention.of_layer(layer_index), {.model_dim = config.model_dim,
                                                             .num_layers = config.num_layers,
                                                             .layer_index = layer_index,
                                                             .init_std = config.init_std,
                                                             .output_init_std = output_init_std(config)})),
      mlp_norm_(NormLayer::parse_style(config.norm), config.model_dim, config.norm_eps, config.bias),
      mlp_(config, output_init_std(config)) {
  add_child("attention_norm", attention_norm_);
  add_child("attention", *attention_);
  add_child("mlp_norm", mlp_norm_);
  add_child("mlp", mlp_);
}

Variable Block::forward(Context& ctx, const Variable& x, const Positions& positions, AttentionState* state) {
  PrefixedMetrics metrics(ctx.metrics, "attention/" + std::to_string(layer_index_) + "/");
  Context inner = ctx;
  inner.metrics = metrics.sink();
  const Variable y = run(inner, x, positions, state);
  if (inner.metrics) report_activations(inner, y.value());
  return y;
}

Variable Block::run(Context& ctx, const Variable& x, const Positions& positions, AttentionState* state) {
  const Variable attended = attention_->forward(ctx, attention_norm_.forward(ctx, x), positions, state);
  const auto [y, normed] = mlp_norm_.forward(ctx, x, dropout(ctx, attended, dropout_));
  return apply<Add>(ctx, {}, y, dropout(ctx, mlp_.forward(ctx, normed), dropout_));
}

}  // namespace headway
