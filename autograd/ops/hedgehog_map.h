// Hedgehog's feature maps (equations in kernels/ops/hedgehog_map.h).
#pragma once

#include "autograd/node.h"
#include "kernels/ops/hedgehog_map.h"

namespace headway {

struct HedgehogMap {
  static constexpr const char* name = "hedgehog_map";
  struct Config {
    HedgehogFeatures features = HedgehogFeatures::softmax;
  };
  struct Saved {
    Tensor y;
    Config config;
    auto tensors() const { return std::tie(y); }
  };
  /// u [...,Df] -> [...,2*Df]
  static Tensor forward(Context&, Saved*, const Config&, const Tensor& u);
  static Grads<1> backward(Context&, const Saved&, const Tensor& dy, const Needs<1>&);
};

}  // namespace headway
