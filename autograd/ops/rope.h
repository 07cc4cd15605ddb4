// Rotary positions on heads (equation in kernels/ops/rope.h).
#pragma once

#include "autograd/node.h"

namespace headway {

struct Rope {
  static constexpr const char* name = "rope";
  struct Config {};
  struct Saved {
    Tensor table;
    auto tensors() const { return std::tie(); }  // the table is shared by the whole model
  };
  /// x [B,T,H,Dh], table [T,R/2,2] -> [B,T,H,Dh]
  static Tensor forward(Context&, Saved*, const Config&, const Tensor& x, const Tensor& table);
  static Grads<2> backward(Context&, const Saved&, const Tensor& dy, const Needs<2>&);
};

}  // namespace headway
