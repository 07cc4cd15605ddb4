// Gates and balance loss of a mixture of heads (equations in kernels/ops/moh_gates.h).
#pragma once

#include "autograd/node.h"
#include "kernels/ops/moh_gates.h"

namespace headway {

struct MohGates {
  static constexpr const char* name = "moh_gates";
  struct Config {
    MohConfig routing = {};
    int64_t num_heads = 1;
  };
  struct Saved {
    Tensor z, fractions;
    Config config;
    auto tensors() const { return std::tie(z, fractions); }
  };
  /// z [B,T,N] -> gates [B,H,T] and the unweighted balance loss [1], in the accumulator's dtype; and the
  /// tokens of each head [B,H,T] i32, ascending, -1 after the last (no gradient).
  static std::array<Tensor, 3> forward(Context&, Saved*, const Config&, const Tensor& z);
  static Grads<1> backward(Context&, const Saved&, const Grads<3>& dy, const Needs<1>&);
};

}  // namespace headway
