// Rows of a table by token id, and learned positions added to them (equations in kernels/ops/embedding.h).
#pragma once

#include "autograd/node.h"

namespace headway {

struct Embedding {
  static constexpr const char* name = "embedding";
  struct Config {};
  struct Saved {
    Tensor ids;
    Shape weight_shape;
    auto tensors() const { return std::tie(ids); }
  };
  /// ids [...] i32, weight [V,D] -> [..., D]
  static Tensor forward(Context&, Saved*, const Config&, const Tensor& ids, const Tensor& weight);
  static Grads<2> backward(Context&, const Saved&, const Tensor& dy, const Needs<2>&);
};

struct AddPositions {
  static constexpr const char* name = "add_positions";
  struct Config {
    int64_t offset = 0;  // position of the first token
  };
  struct Saved {
    Config config;
    Shape weight_shape;
    auto tensors() const { return std::tie(); }
  };
  /// x [B,T,D], weight [P,D] -> [B,T,D]; ShapeError when offset + T > P.
  static Tensor forward(Context&, Saved*, const Config&, const Tensor& x, const Tensor& weight);
  static Grads<2> backward(Context&, const Saved&, const Tensor& dy, const Needs<2>&);
};

}  // namespace headway
