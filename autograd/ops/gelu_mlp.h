// A feed-forward layer with GELU in its tanh form (arXiv 1606.08415), one operation so that a backend can put
// GELU and its derivative into the products beside it.
//
//   inner = x U^T + b_U     hidden = gelu(inner)     y = hidden D^T + b_D
//   dinner = (dy D) gelu'(inner); the rest is that of two linear layers (linear.h)
#pragma once

#include "autograd/node.h"

namespace headway {

struct GeluMlp {
  static constexpr const char* name = "gelu_mlp";
  struct Config {};
  struct Saved {
    Tensor x, up, down, inner, hidden;
    bool has_bias = false;
    auto tensors() const { return std::tie(x, up, down, inner, hidden); }
  };
  /// x [..., in], up [F, in], up_bias [F], down [out, F], down_bias [out] -> [..., out]; both biases or none.
  static Tensor forward(Context&, Saved*, const Config&, const Tensor& x, const Tensor& up,
                        const Tensor& up_bias, const Tensor& down, const Tensor& down_bias);
  static Grads<5> backward(Context&, const Saved&, const Tensor& dy, const Needs<5>&);
};

}  // namespace headway
