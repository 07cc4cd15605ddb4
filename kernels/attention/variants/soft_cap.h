// Scores bounded by cap * tanh(s / cap) (Gemma 2, arXiv 2408.00118, section 2). A window of 0 sees everything
// before the token.
#pragma once

#include <cmath>

#include "kernels/attention/softmax_variant.h"

namespace headway::attention {

struct SoftCap : SoftmaxVariant {
  struct Params {
    int window = 0;
    float cap = 1.5f;
  };
  HEADWAY_HD static int begin(const Params& params, int i, int) { return window_begin(params.window, i); }
  template <class S>
  HEADWAY_HD static S score(const Params& params, S s, Coord) {
    using std::tanh;
    return tanh(s / S(params.cap)) * S(params.cap);
  }
};

}  // namespace headway::attention
