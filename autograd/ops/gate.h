// Gates and the functions of their scores (equations in kernels/ops/gate.h).
#pragma once

#include "autograd/node.h"
#include "kernels/gate_activation.h"

namespace headway {

/// x [...,H,D] gated by scores z [...,H or 1,D or 1], whose leading dimensions may also be missing (a learned
/// constant).
struct Gate {
  static constexpr const char* name = "gate";
  struct Config {
    GateActivation activation = GateActivation::sigmoid;
    bool adds = false;  // y = x + act(z) instead of x act(z)
  };
  struct Saved {
    Tensor x, z;
    Config config;
    auto tensors() const { return std::tie(x, z); }
  };
  static Tensor forward(Context&, Saved*, const Config&, const Tensor& x, const Tensor& z);
  static Grads<2> backward(Context&, const Saved&, const Tensor& dy, const Needs<2>&);
};

/// y = act(x), any shape.
struct Activate {
  static constexpr const char* name = "activate";
  struct Config {
    GateActivation activation = GateActivation::silu;
  };
  struct Saved {
    Tensor x;
    Config config;
    auto tensors() const { return std::tie(x); }
  };
  static Tensor forward(Context&, Saved*, const Config&, const Tensor& x);
  static Grads<1> backward(Context&, const Saved&, const Tensor& dy, const Needs<1>&);
};

/// x [...,H,D] -> its mean over heads [...,1,D].
struct HeadMean {
  static constexpr const char* name = "head_mean";
  struct Config {};
  struct Saved {
    Shape shape;
    auto tensors() const { return std::tie(); }
  };
  static Tensor forward(Context&, Saved*, const Config&, const Tensor& x);
  static Grads<1> backward(Context&, const Saved&, const Tensor& dy, const Needs<1>&);
};

}  // namespace headway
