// Causal attention to the last `window` tokens, the token itself included (arXiv 2004.05150, 2310.06825).
#pragma once

#include "kernels/attention/softmax_variant.h"

namespace headway::attention {

struct SlidingWindow : SoftmaxVariant {
  struct Params {
    int window;  // >= 1
  };
  HEADWAY_HD static int begin(const Params& params, int i, int) { return window_begin(params.window, i); }
};

}  // namespace headway::attention
