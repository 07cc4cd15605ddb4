// One AdamW update of parameters (arXiv 1711.05101), in a single pass over their memory:
//
//   g = grad_scale * grad       m += (1 - beta1) (g - m)       v += (1 - beta2) (g^2 - v)
//   p -= lr (m / correction1 / (sqrt(v / correction2) + eps) + decay p),    correction = 1 - beta^t
#pragma once

#include <span>

#include "core/dtype.h"
#include "core/view.h"
#include "kernels/op.h"

namespace headway {

template <class T>
struct AdamWParameter {
  View<T, 1> p, m, v;
  View<const T, 1> grad;
  View<bf16, 1> rounded = {};  // optional: receives p as the kernels of a bf16 model read it
  double decay = 0;
};

template <class T>
struct AdamWUpdate {
  static constexpr const char* name = "adamw";

  std::span<const AdamWParameter<T>> parameters;
  View<const double, 1> grad_scale;  // (1); negative: nothing changes
  double lr = 0, beta1 = 0, beta2 = 0, eps = 0;
  double correction1 = 1, correction2 = 1;

  void check() const {
    HEADWAY_CHECK(grad_scale.size[0] == 1, ShapeError, "adamw: one grad_scale is expected");
    for (const auto& [p, m, v, grad, rounded, decay] : parameters)
      HEADWAY_CHECK(p.size[0] == grad.size[0] && m.size[0] == p.size[0] && v.size[0] == p.size[0] &&
                        (!rounded || rounded.size[0] == p.size[0]),
                    ShapeError, "adamw: sizes differ");
  }
};

/// sum[0] (+)= sum of x^2, in double, in an order that does not depend on the number of threads.
template <class T>
struct SumSquares {
  static constexpr const char* name = "sum_squares";
  View<const T, 1> x;
  View<double, 1> sum;
  bool accumulate = false;
  void check() const { HEADWAY_CHECK(sum.size[0] == 1, ShapeError, "sum_squares: one sum is expected"); }
};

}  // namespace headway
