// Scores and choice of keys of dynamic mask attention (equations in kernels/ops/dynamic_mask.h).
#pragma once

#include "autograd/node.h"

namespace headway {

struct DynamicMask {
  static constexpr const char* name = "dynamic_mask";
  struct Config {
    int64_t top_w = 1;
    bool exponential = true;
  };
  struct Saved {
    Tensor u, rate;
    Config config;
    auto tensors() const { return std::tie(u, rate); }
  };
  /// u [B,Tk,K], rate [K] -> the keys' biases [B,K,Tk] in the accumulator's dtype, and the positions from
  /// which they are no longer seen [B,K,Tk] i32 (no gradient).
  static std::array<Tensor, 2> forward(Context&, Saved*, const Config&, const Tensor& u, const Tensor& rate);
  static Grads<2> backward(Context&, const Saved&, const Grads<2>& dy, const Needs<2>&);
};

}  // namespace headway
