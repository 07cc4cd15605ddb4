// Causal attention whose rows are scaled: O_i = r_i Y_i. Mixture of heads (arXiv 2410.11842), gates per head.
// A window of 0 sees everything before the token.
#pragma once

#include "kernels/attention/softmax_variant.h"

namespace headway::attention {

struct RowScaled : WindowVariant {
  static constexpr Slots slots = Slots::row_scale;
};

}  // namespace headway::attention
