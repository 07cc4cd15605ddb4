// Causal attention whose rows are scaled: O_i = r_i Y_i. Affine-scaled attention without its bias (arXiv
// 2602.23057) and differential attention (arXiv 2410.05258). A window of 0 sees everything before the token.
#pragma once

#include "kernels/attention/softmax_variant.h"

namespace headway::attention {

struct RowScaled : WindowVariant {
  static constexpr Slots slots = Slots::row_scale;
};

}  // namespace headway::attention
