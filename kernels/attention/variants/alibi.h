// Scores that fall with the distance of the key, by a learned slope of the query head (arXiv 2108.12409). A
// window of 0 sees everything before the token.
#pragma once

#include "kernels/attention/softmax_variant.h"

namespace headway::attention {

struct Alibi : SoftmaxVariant {
  static constexpr Slots slots = Slots::head_parameter;
  struct Params {
    int window = 0;
    float unit = 1.0f / 16;  // of the slopes
  };
  HEADWAY_HD static int begin(const Params& params, int i, int) { return window_begin(params.window, i); }
  template <class S>
  HEADWAY_HD static S score(const Params& params, S s, Learned<S> learned, Coord at) {
    return s - learned.head * S(params.unit * static_cast<float>(at.query - at.key));
  }
  template <class S>
  HEADWAY_HD static S score_grad(const Params&, S, Learned<S>, Coord) {
    return S(1);
  }
};

}  // namespace headway::attention
