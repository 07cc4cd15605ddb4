// NaLaFormer's feature maps of queries and keys (equations in kernels/ops/norm_aware_map.h).
#pragma once

#include "autograd/node.h"
#include "kernels/ops/norm_aware_map.h"

namespace headway {

struct NormAwareMap {
  static constexpr const char* name = "norm_aware_map";
  using Config = NormAwareMapSettings;
  struct Saved {
    Tensor x, lambda;
    Config config;
    auto tensors() const { return std::tie(x, lambda); }
  };
  /// x [...,Dh], lambda [1] or undefined (then the config's) -> [...,2*Dh]
  static Tensor forward(Context&, Saved*, const Config&, const Tensor& x, const Tensor& lambda);
  static Grads<2> backward(Context&, const Saved&, const Tensor& dy, const Needs<2>&);
};

}  // namespace headway
