// RMSNorm and LayerNorm over the last dimension (equations in kernels/ops/norm.h).
#pragma once

#include "autograd/node.h"
#include "kernels/ops/norm.h"

namespace headway {

struct Norm {
  static constexpr const char* name = "norm";
  struct Config {
    NormKind kind = NormKind::rms;
    double eps = 1e-5;
  };
  struct Saved {
    Tensor x, weight, mean, inverse;
    Config config;
    bool has_bias = false;
    auto tensors() const { return std::tie(x, weight, mean, inverse); }
  };
  /// x [..., D], weight [D], bias [D] or undefined -> [..., D]
  static Tensor forward(Context&, Saved*, const Config&, const Tensor& x, const Tensor& weight,
                        const Tensor& bias);
  static Grads<3> backward(Context&, const Saved&, const Tensor& dy, const Needs<3>&);
};

/// The residual stream moved on, and normalised: one pass over memory for what Add and Norm do in two.
struct AddNorm {
  static constexpr const char* name = "add_norm";
  using Config = Norm::Config;
  using Saved = Norm::Saved;
  /// x and update [..., D], weight [D], bias [D] or undefined -> x + update, and its norm
  static std::array<Tensor, 2> forward(Context&, Saved*, const Config&, const Tensor& x, const Tensor& update,
                                       const Tensor& weight, const Tensor& bias);
  static Grads<4> backward(Context&, const Saved&, const Grads<2>& dy, const Needs<4>&);
};

}  // namespace headway
