// The feed-forward layer: down(silu(gate(x)) * up(x)), the same without the silu, or down(gelu(up(x))).
#pragma once

#include <memory>

#include "layers/linear.h"
#include "layers/model_config.h"

namespace headway {

class Mlp : public Module {
 public:
  Mlp(const ModelConfig&, double output_init_std);
  /// x [B,T,D] -> [B,T,D]
  Variable forward(Context&, const Variable& x) const;

 private:
  bool activates_gate_;
  std::unique_ptr<LinearLayer> gate_;  // of the gated kinds
  LinearLayer up_;
  LinearLayer down_;
};

}  // namespace headway
