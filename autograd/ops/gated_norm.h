// RMS norm times a gate (equations in kernels/ops/gated_norm.h).
#pragma once

#include "autograd/node.h"
#include "kernels/ops/gated_norm.h"

namespace headway {

struct GatedNorm {
  static constexpr const char* name = "gated_norm";
  struct Config {
    GateActivation activation = GateActivation::identity;
    double eps = 1e-6;
  };
  struct Saved {
    Tensor x, weight, gate, inverse;
    Config config;
    auto tensors() const { return std::tie(x, weight, gate, inverse); }
  };
  /// x [..., D], weight [D] or undefined, gate like x or undefined -> [..., D]
  static Tensor forward(Context&, Saved*, const Config&, const Tensor& x, const Tensor& weight,
                        const Tensor& gate);
  static Grads<3> backward(Context&, const Saved&, const Tensor& dy, const Needs<3>&);
};

}  // namespace headway
