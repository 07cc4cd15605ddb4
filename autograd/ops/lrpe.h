// Relative positions with learned angles (equations in kernels/ops/lrpe.h).
#pragma once

#include "autograd/node.h"
#include "core/token_positions.h"

namespace headway {

struct Lrpe {
  static constexpr const char* name = "lrpe";
  struct Config {
    TokenPositions positions = {};
  };
  struct Saved {
    Tensor x, theta;
    Config config;
    auto tensors() const { return std::tie(x, theta); }
  };
  /// x [B,T,H,Dh], theta [H,Dh] -> [B,T,H,2*Dh]
  static Tensor forward(Context&, Saved*, const Config&, const Tensor& x, const Tensor& theta);
  static Grads<2> backward(Context&, const Saved&, const Tensor& dy, const Needs<2>&);
};

}  // namespace headway
