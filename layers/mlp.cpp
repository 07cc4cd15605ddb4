#include "layers/mlp.h"

#include "autograd/apply.h"
#include "autograd/ops/activation.h"

namespace headway {

Mlp::Mlp(const ModelConfig& config, double output_init_std)
    : up_(config.model_dim, config.mlp_dim, Init::normal(config.init_std), config.bias),
      down_(config.mlp_dim, config.model_dim, Init::normal(output_init_std), config.bias) {
  if (config.mlp == "swiglu") {
    gate_ = std::make_unique<LinearLayer>(config.model_dim, config.mlp_dim, Init::normal(config.init_std),
                                          config.bias);
    add_child("gate", *gate_);
  }
  add_child("up", up_);
  add_child("down", down_);
}

Variable Mlp::forward(Context& ctx, const Variable& x) const {
  const Variable up = up_.forward(ctx, x);
  const Variable inner =
      gate_ ? apply<SwiGlu>(ctx, {}, gate_->forward(ctx, x), up) : apply<Gelu>(ctx, {}, up);
  return down_.forward(ctx, inner);
}

}  // namespace headway
