// The rows that a causal convolution looks back on: the last ones of a sequence that goes on.
#pragma once

#include "autograd/node.h"

namespace headway {

struct LastRows {
  static constexpr const char* name = "last_rows";
  struct Config {
    int64_t count = 0;
  };
  struct Saved {
    Shape x_shape, before_shape;
    DType dtype = DType::f32;
    Config config;
    auto tensors() const { return std::tie(); }
  };
  /// The last `count` rows of [before | x], oldest first: x [B,T,...], before [B,count,...] or undefined,
  /// which stands for zeros -> [B,count,...]
  static Tensor forward(Context&, Saved*, const Config&, const Tensor& x, const Tensor& before);
  static Grads<2> backward(Context&, const Saved&, const Tensor& dy, const Needs<2>&);
};

}  // namespace headway
