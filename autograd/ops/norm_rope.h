// QK-norm and rotary positions in one pass over heads (equations in kernels/ops/norm_rope.h).
#pragma once

#include "autograd/node.h"

namespace headway {

struct NormRope {
  static constexpr const char* name = "norm_rope";
  struct Config {
    double eps = 1e-6;
  };
  struct Saved {
    Tensor x, weight, table, inverse;
    auto tensors() const { return std::tie(x, weight, inverse); }  // the table is shared by the whole model
  };
  /// x [B,T,H,Dh], weight [Dh], table [T,R/2,2] or undefined -> [B,T,H,Dh]
  static Tensor forward(Context&, Saved*, const Config&, const Tensor& x, const Tensor& weight,
                        const Tensor& table);
  static Grads<3> backward(Context&, const Saved&, const Tensor& dy, const Needs<3>&);
};

}  // namespace headway
