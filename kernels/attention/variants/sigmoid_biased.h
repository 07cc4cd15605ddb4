// Attention whose weights are logistic functions of biased scores, without a denominator (arXiv 2409.04431).
// A window of 0 sees everything before the token.
#pragma once

#include "kernels/attention/softmax_variant.h"

namespace headway::attention {

struct SigmoidBiased : SoftmaxVariant {
  using Weight = Sigmoid;
  struct Params {
    int window = 0;
    float bias = -2;
  };
  HEADWAY_HD static int begin(const Params& params, int i, int) { return window_begin(params.window, i); }
  template <class S>
  HEADWAY_HD static S score(const Params& params, S s, Coord) {
    return s + S(params.bias);
  }
  template <class S>
  HEADWAY_HD static S score_grad(const Params&, S, Coord) {
    return S(1);
  }
};

}  // namespace headway::attention
