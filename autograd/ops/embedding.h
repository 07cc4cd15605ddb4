// Rows of a table by token id, and learned positions added to them (equations in kernels/ops/embedding.h).
#pragma once

#include "autograd/node.h"
#include "core/token_positions.h"

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
    TokenPositions positions = {};
  };
  struct Saved {
    Config config;
    Shape weight_shape;
    auto tensors() const { return std::tie(); }
  };
  /// x [B,T,D], weight [P,D] -> [B,T,D]; ShapeError for a position beyond P.
  static Tensor forward(Context&, Saved*, const Config&, const Tensor& x, const Tensor& weight);
  static Grads<2> backward(Context&, const Saved&, const Tensor& dy, const Needs<2>&);
};

}  // namespace headway
