// The same elements under other sizes, without a copy.
#pragma once

#include "autograd/apply.h"

namespace headway {

struct Reshape {
  static constexpr const char* name = "reshape";
  struct Config {
    Shape shape;
  };
  struct Saved {
    Shape shape;
    auto tensors() const { return std::tie(); }
  };
  static Tensor forward(Context&, Saved* saved, const Config& config, const Tensor& x) {
    if (saved) saved->shape = x.shape();
    return x.reshape(config.shape);
  }
  static Grads<1> backward(Context&, const Saved& saved, const Tensor& dy, const Needs<1>&) {
    return {dy.reshape(saved.shape)};
  }
};

inline Variable reshape(Context& ctx, const Variable& x, const Shape& shape) {
  return apply<Reshape>(ctx, {.shape = shape}, x);
}

}  // namespace headway
