// Causal attention with a bias per key, in which each key is seen only up to some position. Dynamic mask
// attention (arXiv 2508.02124).
#pragma once

#include "kernels/attention/softmax_variant.h"

namespace headway::attention {

struct KeyMasked : SoftmaxVariant {
  static constexpr Slots slots = Slots::key_bias | Slots::key_end;
};

}  // namespace headway::attention
