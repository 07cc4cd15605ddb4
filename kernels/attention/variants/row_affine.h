// Causal attention whose rows are scaled and shifted: O_i = r_i Y_i + beta_i (sum of the visible values).
// Affine-scaled attention (arXiv 2602.23057). A window of 0 sees everything before the token.
#pragma once

#include "kernels/attention/softmax_variant.h"

namespace headway::attention {

struct RowAffine : WindowVariant {
  static constexpr Slots slots = Slots::row_scale | Slots::row_bias;
};

}  // namespace headway::attention
