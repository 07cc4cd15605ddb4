// Causal attention with a learned logit per head in the denominator, so that a head may attend to nothing
// (arXiv 2309.17453, section 3.3; arXiv 2508.10925). A window of 0 sees everything before the token.
#pragma once

#include "kernels/attention/softmax_variant.h"

namespace headway::attention {

struct Sink : WindowVariant {
  static constexpr Slots slots = Slots::sink;
};

}  // namespace headway::attention
