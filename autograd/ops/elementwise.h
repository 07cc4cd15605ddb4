// Residual sums, constant factors and dropout (equations in kernels/ops/elementwise.h).
#pragma once

#include "autograd/node.h"
#include "core/rng.h"

namespace headway {

struct Add {
  static constexpr const char* name = "add";
  struct Config {};
  struct Saved {
    auto tensors() const { return std::tie(); }
  };
  static Tensor forward(Context&, Saved*, const Config&, const Tensor& a, const Tensor& b);
  static Grads<2> backward(Context&, const Saved&, const Tensor& dy, const Needs<2>&) { return {dy, dy}; }
};

struct Scale {
  static constexpr const char* name = "scale";
  struct Config {
    double factor = 1;
  };
  struct Saved {
    Config config;
    auto tensors() const { return std::tie(); }
  };
  static Tensor forward(Context&, Saved*, const Config&, const Tensor& x);
  static Grads<1> backward(Context&, const Saved&, const Tensor& dy, const Needs<1>&);
};

struct Dropout {
  static constexpr const char* name = "dropout";
  struct Config {
    double rate = 0;
    RandomKey key;
    const SequenceSplit* split = nullptr;  // null: x holds whole sequences
  };
  struct Saved {
    Config config;  // the mask is drawn again from its key
    auto tensors() const { return std::tie(); }
  };
  static Tensor forward(Context&, Saved*, const Config&, const Tensor& x);
  static Grads<1> backward(Context&, const Saved&, const Tensor& dy, const Needs<1>&);
};

/// x [B, ...] with this share of its elements dropped in training; x itself otherwise.
Variable dropout(Context&, const Variable& x, double rate);

}  // namespace headway
