#include "layers/mlp.h"

#include "autograd/apply.h"
#include "autograd/ops/activation.h"
#include "autograd/ops/gate.h"
#include "autograd/ops/gelu_mlp.h"

namespace headway {

Mlp::Mlp(const ModelConfig& config, double output_init_std)
    : activates_gate_(config.mlp == "swiglu"),
      up_(config.model_dim, config.mlp_dim, Init::normal(config.init_std), config.bias),
      down_(config.mlp_dim, config.model_dim, Init::normal(output_init_std), config.bias) {
  if (config.has_gated_mlp()) {
    gate_ = std::make_unique<LinearLayer>(config.model_dim, config.mlp_dim, Init::normal(config.init_std),
                                          config.bias);
    add_child("gate", *gate_);
  }
  add_child("up", up_);
  add_child("down", down_);
}

Variable Mlp::forward(Context& ctx, const Variable& x) const {
  if (!gate_) return apply<GeluMlp>(ctx, {}, x, up_.weight(), up_.bias(), down_.weight(), down_.bias());
  const Variable up = up_.forward(ctx, x), gate = gate_->forward(ctx, x);
  return down_.forward(ctx, activates_gate_
                                ? apply<SwiGlu>(ctx, {}, gate, up)
                                : apply<Gate>(ctx, {.activation = GateActivation::identity}, up, gate));
}

}  // namespace headway
