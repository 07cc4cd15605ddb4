// Some channels one token late (equation in kernels/ops/token_shift.h).
#pragma once

#include "autograd/node.h"

namespace headway {

struct TokenShift {
  static constexpr const char* name = "token_shift";
  struct Config {
    int64_t first_shifted = 0;
  };
  struct Saved {
    Config config;
    auto tensors() const { return std::tie(); }
  };
  /// x [B,T,C], previous [B,1,C] or undefined: the row before the first, a constant -> [B,T,C]
  static Tensor forward(Context&, Saved*, const Config&, const Tensor& x, const Tensor& previous);
  static Grads<2> backward(Context&, const Saved&, const Tensor& dy, const Needs<2>&);
};

}  // namespace headway
