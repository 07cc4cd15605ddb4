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

/// The map of a matrix per head, u = x W_h^T + b_h: in one pass over memory where the device has a kernel for
/// it (kernels/ops/hedgehog_feature_map.h), else as HeadLinear and HedgehogMap.
struct HedgehogFeatureMap {
  static constexpr const char* name = "hedgehog_feature_map";
  using Config = HedgehogMap::Config;
  struct Saved {
    Tensor x, weight;
    Tensor y;  // undefined where backward computes the features again
    bool has_bias = false;
    Config config;
    auto tensors() const { return std::tie(x, weight, y); }
  };
  /// x [B,T,H,Dh], weight [H,Df,Dh], bias [H,Df] or undefined -> [B,T,H,2*Df]
  static Tensor forward(Context&, Saved*, const Config&, const Tensor& x, const Tensor& weight,
                        const Tensor& bias);
  static Grads<3> backward(Context&, const Saved&, const Tensor& dy, const Needs<3>&);
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
