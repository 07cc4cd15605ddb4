// A matrix per head: y_h = x_h W_h^T + b_h.
//   dx_h = dy_h W_h     dW_h (+)= dy_h^T x_h     db_h (+)= sum of dy_h over rows
#pragma once

#include "autograd/node.h"

namespace headway {

struct HeadLinear {
  static constexpr const char* name = "head_linear";
  struct Config {};
  struct Saved {
    Tensor x, weight;
    bool has_bias = false;
    auto tensors() const { return std::tie(x, weight); }
  };
  /// x [B,T,H,in], weight [H,out,in], bias [H,out] or undefined -> [B,T,H,out]
  static Tensor forward(Context&, Saved*, const Config&, const Tensor& x, const Tensor& weight,
                        const Tensor& bias);
  static Grads<3> backward(Context&, const Saved&, const Tensor& dy, const Needs<3>&);
};

}  // namespace headway
