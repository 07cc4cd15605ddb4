// Depthwise causal convolution over time, optionally with SiLU (equation in kernels/ops/causal_conv.h).
#pragma once

#include "autograd/node.h"

namespace headway {

struct CausalConv {
  static constexpr const char* name = "causal_conv";
  struct Config {
    bool silu = false;
  };
  struct Saved {
    Tensor x, weight, history;
    Config config;
    auto tensors() const { return std::tie(x, weight, history); }
  };
  /// x [B,T,C], weight [C,K], history [B,K-1,C] or undefined: the rows before the first -> [B,T,C]
  static Tensor forward(Context&, Saved*, const Config&, const Tensor& x, const Tensor& weight,
                        const Tensor& history);
  static Grads<3> backward(Context&, const Saved&, const Tensor& dy, const Needs<3>&);
};

}  // namespace headway
