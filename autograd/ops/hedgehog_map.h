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
  /// u [...,Df], shift [...] or undefined (exp only) -> [...,2*Df]
  static Tensor forward(Context&, Saved*, const Config&, const Tensor& u, const Tensor& shift);
  static Grads<2> backward(Context&, const Saved&, const Tensor& dy, const Needs<2>&);
};

/// What keeps exp in range, in the accumulator's dtype: shifts of the features, decay and eps of the core,
/// all [B,T,H], and the logarithm [B,H] of what the state was divided by.
struct HedgehogShifts {
  Tensor query, key, log_decay, token_eps, after;
};
/// query and key: u [B,T,H,Df]; before: `after` of the tokens so far, or undefined.
HedgehogShifts hedgehog_shifts(Context&, const Tensor& query, const Tensor& key, const Tensor& before,
                               double eps);

}  // namespace headway
