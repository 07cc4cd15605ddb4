// Causal attention that computes some rows alone, and scales them: O_i = r_i Y_i of the rows that row_index
// lists, zero of the others. A row that is listed has a scale that is not zero. Mixture of heads (arXiv
// 2410.11842): the tokens of a head are those that use it. A window of 0 sees everything before the token.
#pragma once

#include "kernels/attention/softmax_variant.h"

namespace headway::attention {

struct ListedRows : WindowVariant {
  static constexpr Slots slots = Slots::row_scale | Slots::row_index;
};

}  // namespace headway::attention
