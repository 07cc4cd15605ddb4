// SiLU, SwiGLU and GELU (equations in kernels/ops/activation.h).
#pragma once

#include "autograd/node.h"

namespace headway {

struct Silu {
  static constexpr const char* name = "silu";
  struct Config {};
  struct Saved {
    Tensor x;
    auto tensors() const { return std::tie(x); }
  };
  static Tensor forward(Context&, Saved*, const Config&, const Tensor& x);
  static Grads<1> backward(Context&, const Saved&, const Tensor& dy, const Needs<1>&);
};

struct SwiGlu {
  static constexpr const char* name = "swiglu";
  struct Config {};
  struct Saved {
    Tensor gate, up;
    auto tensors() const { return std::tie(gate, up); }
  };
  /// gate and up of one shape -> silu(gate) * up
  static Tensor forward(Context&, Saved*, const Config&, const Tensor& gate, const Tensor& up);
  static Grads<2> backward(Context&, const Saved&, const Tensor& dy, const Needs<2>&);
};

}  // namespace headway
