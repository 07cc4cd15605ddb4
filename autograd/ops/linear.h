// y = x W^T + b over the last dimension.
//   dx = dy W     dW (+)= dy^T x     db (+)= sum of dy over rows
#pragma once

#include "autograd/node.h"

namespace headway {

struct Linear {
  static constexpr const char* name = "linear";
  struct Config {};
  struct Saved {
    Tensor x, weight;
    bool has_bias = false;
    auto tensors() const { return std::tie(x, weight); }
  };
  /// x [..., in] (or wider: its first channels are read), weight [out, in], bias [out] or undefined -> [...,
  /// out]
  static Tensor forward(Context&, Saved*, const Config&, const Tensor& x, const Tensor& weight,
                        const Tensor& bias);
  static Grads<3> backward(Context&, const Saved&, const Tensor& dy, const Needs<3>&);
};

/// c = a b (+ c) (+ bias), for tensors of rank 2; the views say what is transposed.
struct Product {
  Tensor a, b, c;
  Tensor bias = {};
  Tensor scale = {};
  bool accumulate = false;
};
void multiply(const Product&, Stream&);
/// y [M,out] = x [M,in] weight [out,in]^T + bias; row by row where the context is row_invariant.
void project(Context&, const Tensor& x, const Tensor& weight, const Tensor& bias, const Tensor& y);
/// The same for every index of the first dimension of a, b and c [batch,.,.] and of bias [batch,.]; no scale.
void multiply_batch(const Product&, Stream&);

/// The tensor as a matrix of rows of its last dimension.
inline Tensor rows_of(const Tensor& x) { return x.reshape({-1, x.size(-1)}); }
/// x's shape with another last dimension.
Shape with_last(const Shape& shape, int64_t last);

}  // namespace headway
